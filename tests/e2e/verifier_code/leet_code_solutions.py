"""Right solutions of some problems of the LeetCode file, by place in it. As on LeetCode, nothing is imported."""

SOLUTIONS = {
    0: """class Solution:
    def minimumPushes(self, word: str) -> int:
        return sum(i // 8 + 1 for i in range(len(word)))""",
    20: """class Solution:
    def hasTrailingZeros(self, nums: List[int]) -> bool:
        return sum(n % 2 == 0 for n in nums) >= 2""",
    21: """class Solution:
    def maximumLength(self, s: str) -> int:
        best = -1
        counts = Counter(c * len_ for i, c in enumerate(s) for len_ in range(1, len(s) - i + 1) if s[i:i + len_] == c * len_)
        for text, count in counts.items():
            if count >= 3:
                best = max(best, len(text))
        return best""",
    40: """class Solution:
    def findIntersectionValues(self, nums1: List[int], nums2: List[int]) -> List[int]:
        first, second = set(nums1), set(nums2)
        return [sum(n in second for n in nums1), sum(n in first for n in nums2)]""",
    60: """class Solution:
    def maximumStrongPairXor(self, nums: List[int]) -> int:
        return max(x ^ y for x in nums for y in nums if abs(x - y) <= min(x, y))""",
    61: """class Solution:
    def findHighAccessEmployees(self, access_times: List[List[str]]) -> List[str]:
        times = defaultdict(list)
        for name, t in access_times:
            insort(times[name], int(t[:2]) * 60 + int(t[2:]))
        return sorted(n for n, ts in times.items() if any(c - a < 60 for a, c in zip(ts, ts[2:])))""",
    80: """class Solution:
    def minimumSum(self, nums: List[int]) -> int:
        sums = [a + b + c for a, b, c in combinations(nums, 3) if a < b > c]
        return min(sums, default=-1)""",
    81: """class Solution:
    def minimumSum(self, nums: List[int]) -> int:
        left = list(accumulate(nums, min))
        right = list(accumulate(nums[::-1], min))[::-1]
        best = inf
        for i in range(1, len(nums) - 1):
            if left[i - 1] < nums[i] > right[i + 1]:
                best = min(best, left[i - 1] + nums[i] + right[i + 1])
        return -1 if best == inf else best""",
    100: """class Solution:
    def minOperations(self, nums: List[int], k: int) -> int:
        left = set(range(1, k + 1))
        taken = 0
        while left:
            left.discard(nums.pop())
            taken += 1
        return taken""",
    101: """class Solution:
    def minOperations(self, nums: List[int]) -> int:
        counts = Counter(nums).values()
        return -1 if 1 in counts else sum(math.ceil(c / 3) for c in counts)""",
    120: """class Solution:
    def countSymmetricIntegers(self, low: int, high: int) -> int:
        def good(text):
            half = len(text) // 2
            return len(text) % 2 == 0 and sum(map(int, text[:half])) == sum(map(int, text[half:]))
        return sum(good(str(n)) for n in range(low, high + 1))""",
    121: """class Solution:
    def minimumOperations(self, num: str) -> int:
        best = len(num) - ('0' in num)
        for i, j in combinations(range(len(num)), 2):
            if int(num[i] + num[j]) % 25 == 0:
                best = min(best, len(num) - i - 2)
        return best""",
    140: """class Solution:
    def maxSum(self, nums: List[int]) -> int:
        return max((a + b for a, b in combinations(nums, 2) if max(str(a)) == max(str(b))), default=-1)""",
    141: """class Solution:
    def doubleIt(self, head: Optional[ListNode]) -> Optional[ListNode]:
        if head.val > 4:
            head = ListNode(0, head)
        node = head
        while node:
            node.val = node.val * 2 % 10 + (node.next is not None and node.next.val > 4)
            node = node.next
        return head""",
    160: """class Solution:
    def isGood(self, nums: List[int]) -> bool:
        n = len(nums) - 1
        return sorted(nums) == [*range(1, n), n, n] if n else False""",
    161: """class Solution:
    def sortVowels(self, s: str) -> str:
        vowels = sorted((c for c in s if c in 'aeiouAEIOU'), reverse=True)
        return ''.join(vowels.pop() if c in 'aeiouAEIOU' else c for c in s)""",
}
