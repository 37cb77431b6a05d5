"""The loss a word is judged by: how well the model, told this word, predicts the noise in a picture (ZOODiP Eq. 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoti.data import Latents, Pipeline
from zoti.descent.timesteps import Timesteps
from zoti.word.tokens import ConceptToken


@dataclass(frozen=True)
class Draw:
    """All chance in one evaluation: which picture, at which time, under which noise.

    >>> z = torch.zeros(1, 4, 8, 8)
    >>> draw = Draw(image=0, t=torch.tensor([700]), z=z, noise=torch.ones_like(z))
    >>> draw.t
    tensor([700])
    """

    #: the picture's number
    image: int
    #: (1,) int64
    t: Tensor
    #: (1, c, h, w) clean latent
    z: Tensor
    #: (1, c, h, w)
    noise: Tensor


class DenoisingLoss:
    """L(theta) = ||eps - eps_phi(z_t, t, c(y(theta)))||^2, averaged over elements, for many candidates at once.

    `draw` fixes the chance, the call is then a deterministic function of theta: one picture, one t, one noise shared
    by all candidates. Works for epsilon and v prediction, whichever the pipeline's scheduler asks for. `captions` has
    a {} for the word, one per picture (or one for all). Raises ValueError where captions, timesteps or scheduler do not
    fit, or max_batch < 1.

    >>> from zoti import PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, penguin = load_pipeline(), load_subject("penguin")
    >>> token = ConceptToken(pipe, "<it>", "penguin")
    >>> latents = cache_latents(pipe, penguin.references)
    >>> puts = PartialUniform(500, 900)
    >>> loss = DenoisingLoss(pipe, token, latents, penguin.captions, puts)
    >>> teapot = token.vocabularies[0].meaning("teapot")
    >>> theta = torch.stack([token.initial, teapot])
    >>> loss(theta, loss.draw(torch.Generator().manual_seed(0))).shape
    torch.Size([2])
    >>> bank = loss.bank(8, torch.Generator().manual_seed(0))
    >>> loss.mean(theta, bank).argmin()  # these are pictures of a penguin
    tensor(0)
    """

    def __init__(
        self,
        pipe: Pipeline,
        token: ConceptToken,
        latents: Latents,
        captions: Sequence[str],
        timesteps: Timesteps,
        max_batch: int = 64,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch = {max_batch}: at least one candidate at a time must go through the model")
        captions = list(captions) * (len(latents) if len(captions) == 1 else 1)
        if len(captions) != len(latents):
            raise ValueError(f"{len(captions)} captions for {len(latents)} pictures; give one each, or one for all")
        for caption in captions:
            if "{}" not in caption:
                raise ValueError(f"the caption {caption!r} has no {{}} where the word belongs")
        schedule, kind = type(pipe.scheduler).__name__, pipe.scheduler.config.get("prediction_type")
        if kind not in ("epsilon", "v_prediction") or not hasattr(pipe.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"this model's {schedule} asks it for {kind!r}; take one that predicts 'epsilon' or 'v_prediction' of "
                "noise mixed in by alphas_cumprod"
            )
        total = pipe.scheduler.config.num_train_timesteps
        if timesteps.high > total:
            raise ValueError(f"timesteps up to {timesteps.high}, but this model knows only {total}")
        self.pipe, self.token, self.latents, self.timesteps = pipe, token, latents, timesteps
        self.prompts = [c.replace("{}", token.word) for c in captions]
        self.max_batch = max_batch
        for prompt in self.prompts:  # one that is too long must not wait for its turn in the middle of a run
            token.ids(prompt)

    def draw(self, generator: torch.Generator, t: Tensor | None = None) -> Draw:
        """Choose picture, timestep (unless t (1,) is given) and noise; the generator is all the chance there is."""
        image = torch.randint(len(self.latents), (1,), generator=generator)
        z = self.latents.sample(image, generator)
        noise = torch.randn(z.shape, generator=generator).to(z)
        return Draw(int(image), self.timesteps.sample(1, generator) if t is None else t, z, noise)

    def bank(self, size: int, generator: torch.Generator) -> list[Draw]:
        """A fixed set of draws: the same ruler for every token, instead of a loss that jumps with the dice.

        Its timesteps are sampled together, so that `Stratified` can spread them.
        """
        return [self.draw(generator, t) for t in self.timesteps.sample(size, generator).split(1)]

    def __call__(self, theta: Tensor, draw: Draw) -> Tensor:
        """Losses (b,) of candidates theta (b, k, d), in chunks of at most `max_batch`. Differentiable in theta."""
        return torch.cat([self._losses(chunk, draw) for chunk in theta.split(self.max_batch)])

    def _losses(self, theta: Tensor, draw: Draw) -> Tensor:
        unet, schedule = self.pipe.unet, self.pipe.scheduler
        told = self.token.encode(theta, [self.prompts[draw.image]]).of(0)
        # by the definition: some schedulers' own add_noise, such as SDXL's Euler's, leaves z as long as it was
        alpha = schedule.alphas_cumprod.to(draw.z)[draw.t]
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        z_t = (signal * draw.z + spread * draw.noise).to(told["encoder_hidden_states"])
        predicted = unet(z_t.expand(len(theta), -1, -1, -1), draw.t.to(z_t.device), **told).sample
        epsilon = schedule.config.prediction_type == "epsilon"
        target = draw.noise if epsilon else signal * draw.noise - spread * draw.z
        losses: Tensor = (predicted.float() - target.float()).square().mean((1, 2, 3))
        return losses

    def mean(self, theta: Tensor, bank: list[Draw]) -> Tensor:
        """Mean losses (b,) of candidates theta (b, k, d) over a bank, without gradients."""
        with torch.no_grad():  # and not inference_mode(), in which forward-mode derivatives are lost
            return torch.stack([self(theta, draw) for draw in bank]).mean(0)
