"""Words behind numbers in Chinese: units of measure, magnitudes, and measure words, as the words that the tables of units know."""

_UNITS = {
    "小时": "hours", "分钟": "minutes", "秒钟": "seconds", "秒": "seconds", "天": "days", "日": "days", "周": "weeks", "星期": "weeks",
    "个月": "months", "月": "months", "年": "years", "岁": "years", "时": "hours", "千米": "kilometers", "公里": "kilometers",
    "分米": "decimeters", "厘米": "centimeters", "毫米": "millimeters", "米": "meters", "里": "li", "千克": "kilograms",
    "公斤": "kilograms", "毫克": "milligrams", "克": "grams", "吨": "tonnes", "斤": "jin", "毫升": "milliliters", "升": "liters",
    "公顷": "hectares", "亩": "mu", "平方": "square", "立方": "cubic", "度": "degrees", "摄氏度": "degreeC", "元": "yuan",
    "块钱": "yuan", "角": "jiao", "每": "per", "的": "of", "牛": "newtons", "焦耳": "joules", "伏": "volts", "安": "amperes",
    "瓦": "watts", "帕": "pascals", "摩尔": "moles",
}  # fmt: skip
MAGNITUDES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_COUNTED = (
    "个 只 人 本 张 种 次 名 位 件 条 辆 棵 支 块 头 颗 朵 道 份 组 项 对 双 把 台 架 座 间 页 枚 袋 箱 瓶 杯 盒 排 层 题 枝 根 "
    "篇 群 步 分 点 户 套 筐 桶 盏 面 匹 班 圈 场 局 篮 串 盆 株 粒 筒 倍 学生 苹果 单位"
)
_WORDS = _UNITS | dict.fromkeys(_COUNTED.split(), "items") | {sign: sign for sign in MAGNITUDES}
_LONGEST = max(map(len, _WORDS))


def behind_number(run: str) -> str:
    """The run of characters as words of units and magnitudes; what is not known stays as it is.

    `万元` is `万 yuan`, `平方厘米` is `square centimeters`.
    """
    found: list[str] = []
    while run:
        length = next((size for size in range(min(_LONGEST, len(run)), 0, -1) if run[:size] in _WORDS), 0)
        if not length:
            return " ".join([*found, run])
        found.append(_WORDS[run[:length]])
        run = run[length:]
    return " ".join(found)
