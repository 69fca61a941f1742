"""The tables of docs/wire.md, in Markdown."""

from bench.wire.record import Row

COLUMNS = {
    "speed": ["what", "millions", "compress", "encode", "merge", "decode", "bits", "bound"],
    "core": [
        "wire", "job", "MB/s", "of a copy", "not shared", "1 thread", "2 threads", "faster",
        "faster, median",
    ],
    "packed": [
        "density", "way", "bits", "over the entropy", "encode MB/s", "of a copy", "decode MB/s",
        "of a copy ",
    ],
    "work": ["what", "millions", "honest, ns a value", "worst, ns a value", "times", "worst"],
    "gradients": ["vocabulary", "threshold", "round", "what", "bits", "bound", "change"],
}  # fmt: skip


def table(rows: list[Row], columns: list[str]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [
        " | ".join(str(row.get(c) if row.get(c) is not None else "") for c in columns)
        for row in rows
    ]
    return "\n".join(f"| {line} |" for line in lines)


def show(record: Row) -> None:
    """Print the table of each part that was ever measured."""
    for name, columns in COLUMNS.items():
        if name in record:
            print(f"\n{table(record[name], columns)}")
    print(f"\n{record['machine']}; peak memory {record.get('peak memory, GiB')} GiB")
