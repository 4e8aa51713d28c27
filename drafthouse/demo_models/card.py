"""The demo pair's model card, written from what was measured.

Promises: every number on the card comes from `Evaluation` or the run's own settings; licences are
those of the packages that were on this machine.
"""

from dataclasses import dataclass

from drafthouse.demo_models.corpus import PACKAGES, Corpus
from drafthouse.demo_models.evaluation import LOSS_ROWS, NEW_TOKENS, REPEAT_LENGTH, SAMPLE_TEMPERATURE, Agreement, Evaluation
from drafthouse.demo_models.prompts import PROMPTS, STANDARD_LIBRARY, STANDARD_LIBRARY_LICENCE, VENDORED
from drafthouse.demo_models.tokens import CONTEXT, PACKAGE_CHARACTERS, VOCAB_SIZE
from drafthouse.demo_models.training import ROWS_PER_STEP


@dataclass(frozen=True)
class Run:
    """The settings of one training run; `versions` has the version of Python and of each package in the corpus."""

    target_steps: int
    draft_steps: int
    versions: dict[str, str]


def write_card(run: Run, corpus: Corpus, result: Evaluation) -> str:
    """The card as Markdown."""
    return "\n".join([_head(result), _data(run, corpus), _training(run), _results(result), _samples(result)])


def _head(result: Evaluation) -> str:
    return f"""# Demo pair: a small Python model and its draft

`target/` has {result.target_parameters / 1e6:.1f} million parameters, `draft/` {result.draft_parameters / 1e6:.2f} million
(1/{result.target_parameters / result.draft_parameters:.1f}); both are Llama decoders over one byte-level BPE vocabulary of
{VOCAB_SIZE:,} tokens, with a context of {CONTEXT:,}, in float16. They continue Python source. They are here so that Drafthouse
runs, is tested and is measured without a download; do not use them for anything else.

The command that makes them: `drafthouse train-demo`.
"""


def _data(run: Run, corpus: Corpus) -> str:
    sizes: dict[str, int] = {}
    for file in corpus.train:
        package = file.name.split("/")[0]
        sizes[package] = sizes.get(package, 0) + len(file.text)
    licences = {STANDARD_LIBRARY: STANDARD_LIBRARY_LICENCE} | PACKAGES
    lines = [
        f"| {'Python standard library' if package == STANDARD_LIBRARY else package} | {run.versions.get(package, '')} "
        f"| {licences[package]} | {size / 1e6:.1f} |"
        for package, size in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    return f"""## Data

Python sources on the training machine: {len(corpus.train):,} training files, {len(corpus.held_out):,} held out (one in twenty, by the
hash of the path), {corpus.dropped_as_duplicates:,} dropped because more than half of their lines were in a held-out or an earlier file.
At most {PACKAGE_CHARACTERS / 1e6:g} MB of each package are trained on.{_vendored(corpus)}

| source | version | licence | text in training files, MB |
|---|---|---|---|
""" + "\n".join([*lines, ""])


def _vendored(corpus: Corpus) -> str:
    count = sum(VENDORED in file.name.split("/") for file in corpus.train)
    if not count:
        return ""
    return f" {count} files in folders named `{VENDORED}` are other projects' and under their own licences (Ray carries pathspec, MPL-2.0)."


def _training(run: Run) -> str:
    tokens = run.target_steps * ROWS_PER_STEP * CONTEXT
    return f"""## Training

Target: {run.target_steps:,} steps of {ROWS_PER_STEP * CONTEXT:,} tokens ({tokens / 1e6:.1f} million), Muon for matrices and
AdamW for the rest, bfloat16 autocast on a CPU. Draft: {run.draft_steps:,} steps of KL divergence to the target, three in
four on text that the target generated (greedy and at temperatures 0.5 to 1), one in four on the corpus.
"""


def _results(result: Evaluation) -> str:
    loss = "\n".join(
        f"| held-out loss, {name} | {result.target_loss[name]:.3f} | {result.draft_loss[name]:.3f} |" for name in result.target_loss
    )
    return f"""## Results

On held-out files alone, with the half-precision weights computed in float32. Loss is in nats per token over at most {LOSS_ROWS} rows
of {CONTEXT:,} tokens.

| | target | draft |
|---|---|---|
{loss}
| one token, transformers with cache, ms | {result.target_ms:.2f} | {result.draft_ms:.2f} |

The draft is {result.target_ms / result.draft_ms:.1f} times faster per token there. {result.repetition:.1%} of the {REPEAT_LENGTH}-grams in
the target's greedy text ({NEW_TOKENS} tokens after each of {PROMPTS} held-out prompts) occurred before in the same text.

How often the target's token, in its own text after the same prompts, is the draft's first choice and among its first four:

| text | ranked by | first | among four |
|---|---|---|---|
{_row("greedy", "the draft's logits", result.greedy)}
{_row("temperature 1", "the draft's logits and the target's noise", result.shared)}
{_row("temperature 1", "the draft's logits alone", result.own)}
"""


def _row(text: str, ranking: str, agreement: Agreement) -> str:
    return f"| {text} | {ranking} | {agreement.first:.3f} | {agreement.among_four:.3f} |"


def _samples(result: Evaluation) -> str:
    parts = ["## Samples\n\nThe target's continuations of held-out prompts.\n"]
    for sample in result.samples:
        tail = "\n".join(sample.prompt.splitlines()[-4:])
        parts.append(
            f"`{sample.file}`, the prompt's last lines:\n{_block(tail)}\ngreedy:\n{_block(sample.greedy)}\n"
            f"temperature {SAMPLE_TEMPERATURE}:\n{_block(sample.sampled)}\n"
        )
    return "\n".join(parts)


def _block(text: str) -> str:
    return f"~~~python\n{text.strip(chr(10))}\n~~~"
