"""A BERT of three small blocks built from a configuration, saved as transformers saves it, with a vocabulary beside it."""

from __future__ import annotations

from pathlib import Path

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "a", "plot", "!")
UNK, CLS, SEP, GOOD, BAD, FILM, S, A, PLOT, SHOUT = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}


def save_bert(folder: Path, seed: int = 0) -> Path:
    """Weights ten times as large as a new BERT's, so that its blocks do something."""
    import torch

    from subpop._torchvision import import_torchvision

    import_torchvision()
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bert = BertModel(BertConfig(**SIZES, initializer_range=0.2))
        for name, value in bert.named_parameters():
            if name.endswith("bias"):
                value.data.normal_(0, 0.1)
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder
