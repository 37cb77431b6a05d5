"""One new word: its place in the vocabulary, and text encodings for a whole batch of candidate vectors at once."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor


class ConceptToken:
    """A pseudo-word of k vectors added to a pipeline's tokenizer and text encoder.

    The vectors start as those of `initializer` (a word the model knows). Candidates are judged by `encode`, which
    never writes to the model; `write` makes the final ones part of it. Raises ValueError where the word is
    already in the vocabulary, the initializer is empty, or vectors < 1.
    """

    def __init__(self, pipe: StableDiffusionPipeline, word: str, initializer: str, vectors: int = 1) -> None:
        if vectors < 1:
            raise ValueError(f"vectors = {vectors}: a word needs at least one vector")
        self.pipe, self.word = pipe, word
        # diffusers' convention: a word of several vectors is written <word> <word>_1 <word>_2 ...
        self.words = [word, *(f"{word}_{i}" for i in range(1, vectors))]
        tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
        taken = [w for w in self.words if w in tokenizer.get_vocab()]
        if taken:
            raise ValueError(
                f"{taken[0]!r} is already in the vocabulary; choose another word, such as <my-{taken[0].strip('<>')}>"
            )
        start = tokenizer(initializer, add_special_tokens=False).input_ids
        if not start:
            raise ValueError("the initializer is empty; give a word the model knows, such as 'teapot'")
        table = encoder.get_input_embeddings().weight
        self.initial = table[torch.tensor(start)].mean(0, keepdim=True).detach().float().repeat(vectors, 1)  # (k, d)
        tokenizer.add_tokens(self.words)
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.token_ids = tokenizer.convert_tokens_to_ids(self.words)
        self.write(self.initial)

    def ids(self, prompt: str) -> Tensor:
        """Token ids (L,) of a prompt that holds the word, padded to the encoder's length, every vector in place."""
        text = prompt.replace(self.word, " ".join(self.words))
        length = self.pipe.tokenizer.model_max_length
        ids = self.pipe.tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        if not set(self.token_ids) <= set(ids):
            raise ValueError(f"the prompt {prompt!r} does not hold {self.word!r} within its first {length} tokens")
        return torch.tensor(ids, device=self.pipe.text_encoder.device)

    def encode(self, theta: Tensor, prompts: list[str]) -> Tensor:
        """Text states for every candidate with every prompt: theta (b, k, d), p prompts -> (b, p, L, width).

        Differentiable in theta. Raises ValueError where theta is not (b, k, d) for this word's k and the encoder's d.
        """
        expected = tuple(self.initial.shape)
        if theta.ndim != 3 or tuple(theta.shape[1:]) != expected:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}; {self.word!r} takes (b, {expected[0]}, {expected[1]})"
            )
        ids = torch.stack([self.ids(p) for p in prompts])
        table = self.pipe.text_encoder.get_input_embeddings()

        def substitute(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
            output = output.view(len(theta), *ids.shape, -1).clone()
            for k, token in enumerate(self.token_ids):
                at = ids == token  # (p, L); a prompt may say the word twice
                output[:, at] = theta[:, k, None].to(output.dtype)
            return output.flatten(0, 1)

        handle = table.register_forward_hook(substitute)
        try:
            states = self.pipe.text_encoder(ids.repeat(len(theta), 1))[0]
        finally:
            handle.remove()
        return states.unflatten(0, (len(theta), len(prompts)))

    @torch.no_grad()
    def write(self, theta: Tensor) -> None:
        """Make theta (k, d) the word's vectors in the model, so that `pipe("a <word> ...")` paints with them."""
        table = self.pipe.text_encoder.get_input_embeddings().weight
        table[torch.tensor(self.token_ids)] = theta.to(table)

    def save(self, theta: Tensor, folder: str | Path) -> Path:
        """Write theta (k, d) to folder/learned_embeds.safetensors, as diffusers' `load_textual_inversion` reads it."""
        path = Path(folder) / "learned_embeds.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        theta = theta.detach().float().cpu().contiguous()
        save_file({self.word: theta[0] if len(theta) == 1 else theta}, path)
        return path
