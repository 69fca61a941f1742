"""A peer of hivemind: hivemind.Optimizer with local updates, which averages the weights every 20 steps' worth of
sequences of all peers; and, with RIVALS_HUB_ROLE, the node of its hash table that the others begin with."""

import time

import hivemind

from bench.rivals.training import Training, asked

EVERY = 20


def main() -> None:
    work, index, log, fault, given = asked()
    if index < 0:
        dht = hivemind.DHT(
            host_maddrs=[f"/ip4/{given['here']}/tcp/29520"],
            start=True,
            identity_path=given["identity"],
        )
        print("maddr", dht.get_visible_maddrs()[0], flush=True)
        time.sleep(3600)
    training = Training(work, index, given["optimizer"], log, fault)
    dht = hivemind.DHT(
        host_maddrs=[f"/ip4/{given['here']}/tcp/0"], initial_peers=[given["maddr"]], start=True
    )
    batch = training.windows.shape[1]
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="rivals",
        batch_size_per_step=batch,
        target_batch_size=EVERY * batch * int(given["peers"]),
        optimizer=training.optimizer,
        use_local_updates=True,
        delay_state_averaging=False,
        matchmaking_time=3.0,
        averaging_timeout=20.0,
        state_averaging_compression=hivemind.compression.Float16Compression(),
    )
    training.optimizer = optimizer
    before, epoch = training.copies(), 0
    for step in range(training.steps):
        loss = training.gradient(step)
        if (step + 1) % EVERY == 0:
            training.spoil(before)
        training.update()
        if optimizer.local_epoch != epoch:
            before, epoch = training.copies(), optimizer.local_epoch
        training.said("step", step=step, loss=loss, epoch=epoch)
    training.end()
    optimizer.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
