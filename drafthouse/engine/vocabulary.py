"""Which token each id is: what a target and a draft must agree on, whatever the size of their output layers.

Models of one family share a tokenizer and pad their output layers to different sizes. Ids beyond the tokenizer's
name no token; a target hardly ever chooses one.
"""

import hashlib
import logging
from collections.abc import Mapping

from drafthouse.grammars.compiler import GrammarError

logger = logging.getLogger(__name__)


def digest_of(vocabulary: Mapping[str, int]) -> str:
    """Equal for equal vocabularies, and for no others."""
    digest = hashlib.sha256()
    for token, i in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        name = token.encode("utf-8", "surrogatepass")
        digest.update(f"{i} {len(name)} ".encode() + name)
    return digest.hexdigest()[:16]


def vocabulary_digest(folder: str, trust_remote_code: bool = False) -> str:
    """Of the tokenizer in a folder or of a hub id; empty where it has none that can be used."""
    from transformers import AutoTokenizer

    try:
        return digest_of(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code).get_vocab())
    except Exception as error:  # fault boundary: tokenizers raise errors of many kinds
        logger.warning("%s: no tokenizer could be read, so its vocabulary is not compared with others': %s", folder, error)
        return ""


def tokenizer_text(folder: str, trust_remote_code: bool = False) -> str:
    """The tokenizer of a folder or of a hub id as a tokenizer.json, for grammars. Raises GrammarError where it has none."""
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code).backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        text: str = backend.to_str()
    except Exception as error:  # fault boundary: tokenizers raise errors of many kinds
        raise GrammarError(f"no tokenizer of {folder} can be used for grammars: {error}") from error
    return text
