"""What the two encoders, by torch and by numpy, have in common."""

from encoder.arguments import as_strings
from encoder.pooling import check_unpooled
from encoder.tokenizer import LateTokenizer, Token

__all__ = ["BaseEncoder"]


class BaseEncoder:
    """Lengths, and what vectors stand for: the tokenizer's affair."""

    tokenizer: LateTokenizer
    pool_factor: int

    @property
    def calls_at_once(self) -> int:
        """Calls of `encode_documents` by threads of a caller's that use all that computes: what one does before and
        after it computes is then done while another computes."""
        return 1

    @property
    def query_length(self) -> int:
        return self.tokenizer.settings.query_length

    @property
    def document_length(self) -> int:
        return self.tokenizer.settings.document_length

    def query_tokens(self, text: str) -> list[Token]:
        """What each vector of a query stands for: the token and its place in the text."""
        return self.tokenizer.query_tokens(*as_strings([text], "text"))

    def document_tokens(self, text: str) -> list[Token]:
        """What each vector of a document stands for, as `encode_documents` gives them.

        Raises ArgumentError where pooling has left no vector for each token.
        """
        check_unpooled(self.pool_factor)
        return self.tokenizer.document_tokens(*as_strings([text], "text"))
