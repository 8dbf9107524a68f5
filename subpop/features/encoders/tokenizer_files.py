"""The tokenizer of an encoder's folder, with its settings for capital letters, accents and Chinese characters.

`tokenizer_config.json` has priority for the keys that it contains, then `tokenizer.json`. For a plain `vocab.txt` without
`do_lower_case`, texts are lower-cased unless the vocabulary has words with capitals. Settings under which a part of the
vocabulary could never occur raise BadInput: a cased vocabulary with lower-cased texts would silently lose most of its words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subpop.features.encoders.folders import read_settings, tokenizer_file
from subpop.types import BadInput

SETTINGS = "tokenizer_config.json"
KEYS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
"""Keys of the settings, and their names in `tokenizers`."""
UNREACHABLE = 0.01
"""Largest fraction of words that may be unreachable under the settings."""
Encode = Callable[[Sequence[str], int], list[list[int]]]


def read_tokenizer(folder: Path) -> Encode:
    """A function that maps texts and max_length to ids with [CLS] and [SEP], truncated to max_length."""
    path, settings = tokenizer_file(folder), _settings(folder)
    try:
        tokenizer: Any = _of_json(path, settings) if path.suffix == ".json" else _of_words(path, settings)
    except BadInput:
        raise
    except Exception as error:  # the reader, in Rust, raises Exception for all errors
        raise BadInput(f"{path} is not a readable tokenizer ({error}); fetch it again") from error
    if tokenizer.token_to_id("[PAD]") != 0:
        raise BadInput(f"{path} pads with id {tokenizer.token_to_id('[PAD]')}; rows here are padded with 0, as BERT's are")
    _check_words(path, list(tokenizer.get_vocab()), tokenizer.normalizer)
    tokenizer.no_padding()

    def encode(texts: Sequence[str], max_length: int) -> list[list[int]]:
        tokenizer.enable_truncation(max_length)
        return [found.ids for found in tokenizer.encode_batch(list(texts))]

    return encode


def _settings(folder: Path) -> dict[str, bool | None]:
    """The settings in `KEYS` that the file contains, under the names in `tokenizers`."""
    path = folder / SETTINGS
    found = {key: value for key, value in (read_settings(path) if path.is_file() else {}).items() if key in KEYS}
    for key, value in found.items():
        if not (isinstance(value, bool) or (value is None and key == "strip_accents")):
            raise BadInput(f"{path} has {key} {value!r}; it must be true or false")
    return {KEYS[key]: value for key, value in found.items()}


def _of_words(path: Path, settings: dict[str, bool | None]) -> Any:
    import tokenizers

    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    words = {line.rstrip(): number for number, line in enumerate(lines) if line or number < len(lines) - 1}
    return tokenizers.BertWordPieceTokenizer(words, **{"lowercase": not _is_cased(list(words)), **settings})


def _of_json(path: Path, settings: dict[str, bool | None]) -> Any:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(path.read_bytes().decode("utf-8-sig"))
    normalizer: Any = tokenizer.normalizer
    if isinstance(normalizer, tokenizers.normalizers.BertNormalizer):
        own = {name: getattr(normalizer, name) for name in ("clean_text", *KEYS.values())}
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(**{**own, **settings})
    elif settings.get("lowercase", _lowers(normalizer)) != _lowers(normalizer):
        raise BadInput(f"{path} and {SETTINGS} disagree on do_lower_case, and only a BertNormalizer can be changed; correct one")
    return tokenizer


def _lowers(normalizer: Any) -> bool:
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def _is_cased(words: Sequence[str]) -> bool:
    plain = _plain(words)
    return sum(word != word.lower() for word in plain) > UNREACHABLE * len(plain)


def _check_words(path: Path, words: Sequence[str], normalizer: Any) -> None:
    """Raise BadInput if more than a few words could never occur in a text as the tokenizer reads it."""
    plain = _plain(words) if normalizer is not None else []
    # Chinese characters are surrounded by blanks.
    lost = [word for word in plain if normalizer.normalize_str(word).replace(" ", "") != word]
    if len(lost) > UNREACHABLE * len(plain):
        raise BadInput(
            f"{path}: {len(lost)} of {len(plain)} words, such as {min(lost)!r}, can never occur, because texts are lower-cased "
            f"or stripped of accents; set do_lower_case and strip_accents in {path.parent / SETTINGS} as in its training"
        )


def _plain(words: Sequence[str]) -> list[str]:
    """The words without special tokens such as [CLS]."""
    return [word for word in words if word and not (word.startswith("[") and word.endswith("]"))]
