"""A peer of plain data parallelism: torch DistributedDataParallel over gloo, an all-reduce a step."""

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from bench.rivals.training import Training, asked


def main() -> None:
    work, index, log, fault, given = asked()
    training = Training(work, index, given["optimizer"], log, fault)
    dist.init_process_group(
        "gloo", f"tcp://{given['hub']}:29500", rank=index, world_size=int(given["peers"])
    )
    group = dist.group.WORLD
    assert group is not None
    wrapped = DistributedDataParallel(training.model)

    def exchange(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """torch's own mean of the gradients, and before that the fault of this peer, if it has one."""
        bucket.buffer().mul_(training.poison)
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(None, exchange)
    for step in range(training.steps):
        loss = training.gradient(step, wrapped)
        training.update()
        training.said("step", step=step, loss=loss)
    training.end()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
