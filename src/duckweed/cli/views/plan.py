"""The answer in a terminal: the verdict first, then what a person reads in ten seconds."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from duckweed.plan import device, explain
from duckweed.plan.answer import Answer, as_paths, people, span, verdict, within_budget
from duckweed.plan.inputs import models
from duckweed.plan.report import Option, traffic
from duckweed.run import units

WIDTH = 24


def print_answer(console: Console, given: Answer) -> None:
    """Verdict, strategies, time, memory, bill, and what would have to change."""
    result, target = given.report, given.report.target
    shape = target.model.shape
    active = (
        "" if abs(shape.active - shape.total) < 1 else f" ({units.show_count(shape.active)} active)"
    )
    console.print(
        f"{shape.name}: {units.show_count(shape.total)} parameters{active}, "
        f"{units.show_count(target.tokens)} tokens, {target.precision} {target.optimizer}, on {people(given)}",
        style="dim",
    )
    color = "green" if given.possible else "red"
    console.print(f"{verdict(given)}\n", style=f"bold {color}")
    console.print(strategies(result.options))
    print_impossible(console, result.options)
    if result.causes:
        console.print("\nWhere the time goes", style="bold")
        console.print(time_table(given))
    print_memory(console, given)
    print_change(console, given)
    for note in given.notes:
        console.print(note, style="dim")


def strategies(options: list[Option]) -> Table:
    """The possible strategies, the fastest first."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("strategy", "time (80 %)", "replicas", "exchange every"):
        table.add_column(
            name,
            justify="right" if name == "replicas" else "left",
            no_wrap=name != "exchange every",
        )
    for option in options:
        if option.days is None:
            continue
        how = option.settings()
        each = f"{how['replicas']:,} x {how['machines_per_replica']:,}"
        plural = "s" if how["inner_steps_per_round"] > 1 else ""
        exchange = f"{how['inner_steps_per_round']} step{plural}, {how['wire']}"
        exchange += ", overlapped" if how["exchange_overlaps"] else ""
        if how["replicas"] == 1:
            exchange = "-"
        table.add_row(option.label, span(option.days), each, exchange)
    return table


def print_impossible(console: Console, options: list[Option]) -> None:
    """One line for all strategies that cannot be, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for option in options:
        if option.days is None:
            reasons.setdefault(option.why, []).append(option.label)
    if reasons:
        text = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        console.print(f"Not possible: {text}", style="dim")


def time_table(given: Answer) -> Table:
    """Where the time goes, as bars that add up."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    causes = [cause for cause in given.report.causes if cause.days > 0]
    total = sum(cause.days for cause in causes)
    for cause in causes:
        share = cause.days / total
        if share < 0.005 and cause is not causes[0]:
            continue
        table.add_row(
            cause.name,
            Text("█" * max(1, round(share * WIDTH)), "green"),
            f"{share:.0%}",
            span(cause.days),
        )
    return table


def print_memory(console: Console, given: Answer) -> None:
    console.print()
    for role in given.report.memory:
        host = (
            f", {units.show_size(role.host)} of {units.show_size(role.host_room)} main memory"
            if role.host_room
            else ""
        )
        console.print(
            f"Memory: {role.role} takes {units.show_size(role.device)} of {units.show_size(role.device_room)}{host}"
        )
    moved = traffic(given.report.best) if given.report.best else None
    if moved:
        hub = f"; the hub moves {units.show_rate(moved.hub)} on average" if moved.hub else ""
        console.print(
            f"Exchange: a machine sends {units.show_size(moved.sent)} and fetches "
            f"{units.show_size(moved.fetched)} every {units.show_time(moved.round)}{hub}"
        )
    if words := within_budget(given):
        console.print(words)
    bill, stage = given.report.bill, given.report.rollouts
    if bill:
        console.print(
            f"Bill: {units.show_count(bill.machine_hours.median)} machine-hours, "
            f"{units.show_energy(bill.energy.median)}, {units.show_count(bill.rent.median)} dollars if rented "
            f"({units.show_count(bill.rent.low)} to {units.show_count(bill.rent.high)})"
        )
    if stage:
        days = float(sorted(stage.days.ravel())[stage.days.size // 2])
        console.print(
            f"Reinforcement learning: {units.show_count(stage.tokens)} tokens written by {stage.workers:,} workers "
            f"of {stage.machines:,} machines, {span(days)} of the total"
        )


def print_change(console: Console, given: Answer) -> None:
    deadline = span(given.deadline)
    if given.levers:
        console.print(
            Text.assemble(
                (f"\nWhat would have to change for {deadline}", "bold"), " (one thing at a time)"
            )
        )
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for lever in given.levers:
            if lever.factor is None:
                short = "never" if lever.days == float("inf") else span(lever.days)
                table.add_row(
                    lever.name, "no amount", f"still {short} with {lever.means}", style="dim"
                )
            else:
                table.add_row(lever.name, f"x {lever.factor:,.3g}", lever.means)
        console.print(table)
    if given.combination:
        c = given.combination
        parts = [(c.machines, "machines"), (c.link, "link"), (c.memory, "memory")]
        words = " and ".join(f"{factor:g} x {name}" for factor, name in parts if factor > 1)
        console.print(f"Fewest doublings together: {words}: {span(c.days)}")
    elif given.levers:
        console.print(
            "No combination of up to 12 doublings of machines, links and memory suffices."
        )
    if given.largest:
        largest = given.largest
        console.print(
            Text.assemble(
                (
                    f"In {deadline} this crowd can train {units.show_count(largest.parameters)} parameters",
                    "bold",
                ),
                f" on {units.show_count(largest.tokens)} tokens (dense, compute-optimal, {largest.strategy})",
            )
        )
    if given.paths:
        what, how = as_paths(given.paths)
        console.print(
            Text.assemble(
                (f"As paths: {what.partition(':')[0]}", "bold"), f":{what.partition(':')[2]}"
            )
        )
        console.print(how, style="dim")
    if given.bars:
        bars = ", ".join(
            f"{b.name} {span(b.days_low)} .. {span(b.days_high)}" for b in given.bars[:3]
        )
        console.print(f"Most uncertain: {bars}")


def print_derivation(console: Console, given: Answer) -> None:
    """Every formula of the best plan, the values put in, and the sources."""
    if given.report.best is None:
        console.print("There is no plan to explain: nothing fits.")
        return
    console.print("\nHow the figures came about", style="bold")
    for line in explain.derivation(given.report.best):
        if not line.formula:
            console.print(f"\n{line.name[1:-1]}", style="bold")
            continue
        console.print(Text.assemble(f"{line.name} = ", (line.value, "bold")))
        console.print(f"    = {line.formula}", style="dim")
        if line.values:
            console.print(f"    {line.values}", style="dim")
        console.print(f"    source: {line.source}", style="dim")
    console.print(Text.assemble(("\nUncertain inputs", "bold"), " (10 % / 50 % / 90 %)"))
    for name, what, source in explain.sources():
        console.print(f"{name}: {what}")
        console.print(f"    source: {source}", style="dim")
    model = given.report.target.model
    console.print(f"\nModel: {model.source}")
    for group in given.report.crowd.groups:
        console.print(f"Device {group.device.label}: {group.device.source}")
    console.print(f"Bytes a parameter: {given.report.state.source}")


def print_catalogue(console: Console) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("model", "parameters", "active", "tokens"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name in models.names():
        model = models.preset(name)
        tokens = units.show_count(model.tokens) if model.tokens else "-"
        table.add_row(
            name, units.show_count(model.shape.total), units.show_count(model.shape.active), tokens
        )
    console.print(table)
    console.print()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("device", "memory", "bf16", "fp8", "price"):
        table.add_column(name, justify="left" if name == "device" else "right")
    for name in device.names():
        card = device.find(name)
        fp8 = f"{card.fp8 / 1e12:g} TF" if card.fp8 else "-"
        table.add_row(
            name,
            units.show_size(card.memory) if card.memory else "host",
            f"{card.bf16 / 1e12:g} TF",
            fp8,
            f"${card.price:,.0f}",
        )
    console.print(table)
