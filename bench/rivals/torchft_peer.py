"""A peer of torchft: LocalSGD, which averages the weights every 20 steps, through a lighthouse on the hub."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torchft import Manager, ProcessGroupGloo
from torchft.local_sgd import LocalSGD

from bench.rivals.training import Training, asked

EVERY = 20


def main() -> None:
    work, index, log, fault, given = asked()
    training = Training(work, index, given["optimizer"], log, fault)
    store = dist.TCPStore(given["here"], 0, is_master=True, wait_for_workers=False)

    def load(state: dict[str, Any]) -> None:
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.said("healed")

    def save() -> dict[str, Any]:
        return {
            "model": training.model.state_dict(),
            "optimizer": training.optimizer.state_dict(),
        }

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=20)),
        load_state_dict=load,
        state_dict=save,
        min_replica_size=1,
        use_async_quorum=False,
        timeout=timedelta(seconds=20),
        replica_id=f"peer{index}",
        rank=0,
        world_size=1,
        store_addr=given["here"],
        store_port=store.port,
        lighthouse_addr=f"http://{given['hub']}:29510",
        hostname=given["here"],
        init_sync=False,  # all begin with the same weights
    )
    before = training.copies()

    def spoil(*_: object) -> None:
        if (training.step + 1) % EVERY == 0:
            training.spoil(before)

    training.optimizer.register_step_post_hook(spoil)  # before LocalSGD's own
    with LocalSGD(manager, training.model, training.optimizer, EVERY):
        # A peer that came back begins where the others are, as its manager counts the exchanges.
        while (step := max(training.step + 1, manager.current_step() * EVERY)) <= training.steps:
            loss = training.gradient(step - 1)
            training.update()
            if step % EVERY == 0:
                before = training.copies()
            training.said("step", step=step - 1, loss=loss, taking_part=manager.num_participants())
            training.step = step
    training.end()
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main()
