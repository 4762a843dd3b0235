"""python -m bench: every benchmark, one after the other."""

from bench import loop, verifier

if __name__ == "__main__":
    loop.main()
    verifier.main()
