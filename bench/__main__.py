"""python -m bench: every benchmark, one after the other."""

from bench import data_plane, loop, train_step, verifier

if __name__ == "__main__":
    loop.main()
    data_plane.main()
    train_step.main()
    verifier.main()
