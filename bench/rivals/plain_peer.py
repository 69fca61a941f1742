"""A loop that exchanges nothing: what the machine does when as many of them run at once."""

from bench.rivals.training import Training, asked


def main() -> None:
    work, index, log, fault, given = asked()
    training = Training(work, index, given["optimizer"], log, fault)
    for step in range(training.steps):
        loss = training.gradient(step)
        training.update()
        training.said("step", step=step, loss=loss)
    training.end()


if __name__ == "__main__":
    main()
