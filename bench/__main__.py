"""python -m bench: every benchmark, one after the other."""

from bench import loop, train_step, verifier

if __name__ == "__main__":
    loop.main()
    train_step.main()
    verifier.main()
