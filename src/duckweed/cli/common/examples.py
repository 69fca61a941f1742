"""Examples at the end of each command's help, and the exit codes at the end of the program's."""

import typer

EXAMPLES: dict[str, dict[str, str]] = {
    "train": {
        "duckweed train": "four peers train a small model on Python's own sources",
        "duckweed train run.toml --peers 2 --set inner.steps=30": "a specification, two keys changed",
        "duckweed train --data books/ --model llama-15m": "one's own text",
        "duckweed train --resume runs/train-1": "go on after an interruption",
    },
    "new": {"duckweed new my.toml": "a specification to start from"},
    "serve": {
        "duckweed serve my.toml --train 1": "coordinate, with one peer beside it",
        "duckweed serve my.toml --listen 0.0.0.0:7000 --public 203.0.113.5:7000": "behind a router",
        "duckweed serve my.toml --page 0.0.0.0:8080": "with a page that everybody can see",
        "duckweed serve runs/my-1": "go on",
    },
    "invite": {
        "duckweed invite my-1 --uses 3 --expires 7d --name lab": "for three machines, for a week",
        "duckweed invite my-1 --list": "who came by which",
    },
    "relay": {"duckweed relay --listen 0.0.0.0:7001": "on a machine that all can reach"},
    "join": {
        "duckweed join INVITATION --dry-run": "what it would do, and what that costs",
        "duckweed join INVITATION --data books/ --up 5mbit --hours 22-07": "at night, with a limit",
        "duckweed join --home joined/0123456789ab": "go on as the same peer",
    },
    "identity": {"duckweed identity anna": "a key that an organiser can name"},
    "pause": {"duckweed pause": "the only peer here rests", "duckweed pause joined/0123456789ab": "this one"},
    "resume": {"duckweed resume": "the only peer here goes on"},
    "leave": {"duckweed leave": "the only peer here hands back its block and ends"},
    "me": {
        "duckweed me": "tokens, rounds and place, over all runs",
        "duckweed me --record joined/0123456789ab --note Anna": "a signed record of this run's work",
        "duckweed me --check record.json joined/0123456789ab": "is somebody's record true?",
    },
    "status": {
        "duckweed status my-1": "a run of this machine",
        "duckweed status INVITATION --json": "somebody else's, for a program",
    },
    "doctor": {"duckweed doctor INVITATION": "why the coordinator cannot be reached"},
    "show": {"duckweed show my-1": "check the ledger and list it", "duckweed show joined/0123456789ab": "a copy"},
    "generate": {"duckweed generate my-1 --prompt 'def ' --temperature 0": "the likeliest text"},
    "chat": {"duckweed chat sft-1": "a conversation", "duckweed chat sft-1 --temperature 0": "always the likeliest answer"},
    "evaluate": {
        "duckweed evaluate my-1 --data other.txt": "bits per byte of another text",
        "duckweed evaluate rl-1 --tasks countdown,chain_sum --samples 8": "problems solved",
    },
    "audit": {"duckweed audit my-1": "do contributions and rounds again"},
    "page": {
        "duckweed page": "all runs under runs/",
        "duckweed page my-1 --listen 0.0.0.0:8080": "one run, for everybody",
    },
    "push": {"duckweed push my-1 anna/small-model --dry-run": "write the folder and look at it first"},
    "plan": {
        "duckweed plan --model llama-3-8b --crowd '500x rtx4090 @ 20/100 Mbps 80ms'": "how long a crowd takes",
        "duckweed plan runs/my-1 --crowd '20x rtx3060 @ 10/50 Mbps'": "the same for the model of a run",
        "duckweed plan --list": "the models and devices that have names",
    },
    "forecast": {
        "duckweed forecast": "gaps, growth rates and dates of crossing",
        "duckweed forecast --claims --set frontier.growth=3x": "the essay's claims, one assumption changed",
        "duckweed forecast --race essay --explain": "every parameter of a race, with its source",
    },
    "forecast refresh": {"duckweed forecast refresh": "is there newer data than ours?"},
    "evolve": {
        "duckweed evolve --budget 2h": "look for a better recipe for two hours",
        "duckweed evolve --data books/ --preset llama-0.5m --workers 2": "one's own text, two trials at a time",
        "duckweed evolve --resume": "go on after an interruption",
    },
    "evolve show": {"duckweed evolve show campaign-1 --export ledger.jsonl": "what was tried, what held"},
    "evolve repeat": {"duckweed evolve repeat campaign-1 --count 3": "three trials at random, bit for bit"},
    "evolve work": {"duckweed evolve work --listen 0.0.0.0:7002": "train trials for somebody's campaign"},
}  # fmt: skip
"""Command -> example -> what it does."""

EXIT_CODES = """Exit codes: 0 done; 1 an error, said in one line; 2 an option or argument that does not exist (`forecast`: any
error; `audit`: something could not be compared);
130 ended by Ctrl-C or `kill`, with nothing lost that counted. DUCKWEED_TRACE=1 shows where an error came from."""


def epilog(command: str) -> str | None:
    """The end of a command's help."""
    found = EXAMPLES.get(command)
    if not found:
        return None
    return "\n\n".join(f"- `{line}`: {what}" for line, what in found.items())


def add(app: typer.Typer, group: str = "") -> None:
    """Give each command its examples. group: the words before a command's own."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        command.epilog = epilog(group + name)
    for room in app.registered_groups:
        room.epilog = epilog(group + str(room.name))
        if room.typer_instance:
            add(room.typer_instance, f"{group}{room.name} ")
