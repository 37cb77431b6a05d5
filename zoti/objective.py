"""The loss a word is judged by: how badly the model, told this word, predicts the noise in a picture (ZOODiP Eq. 1)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoti.data import Latents, Pipeline
from zoti.descent.timesteps import Timesteps
from zoti.identity import Identity, described, fingerprint, sketch
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
    #: the timestep, int64 (1,)
    t: Tensor
    #: the picture's latent without noise, (1, c, h, w)
    z: Tensor
    #: the noise, (1, c, h, w)
    noise: Tensor


class DenoisingLoss:
    """The denoising loss of a word, for many candidates at once: call it with candidates and a draw.

    L(theta) = ||eps - eps_phi(z_t, t, c(y(theta)))||^2, averaged over elements. All chance lies in the draw: one
    picture, one t and one noise, shared by all candidates. Given a draw, the loss is a deterministic function of
    theta. Works for epsilon and v prediction, whichever the pipeline's scheduler asks for.

    captions: one for each picture (or one for all), with {} where the word belongs. max_batch: how many candidates go
    through the model together.

    Warns where the U-Net computes in bfloat16. Raises ValueError where captions, timesteps or scheduler do not fit, or
    max_batch < 1.

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
        schedule = type(pipe.scheduler).__name__
        kind = pipe.scheduler.config.get("prediction_type")
        if kind not in ("epsilon", "v_prediction") or not hasattr(pipe.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"this model's {schedule} asks it for {kind!r}; take one that predicts 'epsilon' or 'v_prediction' of "
                "noise mixed in by alphas_cumprod"
            )
        total = pipe.scheduler.config.num_train_timesteps
        if timesteps.high > total:
            raise ValueError(f"timesteps up to {timesteps.high}, but this model knows only {total}")
        if next(pipe.unet.parameters()).dtype == torch.bfloat16:
            warnings.warn(
                "in bfloat16, with its three digits, two candidates' losses can hardly be told apart. Measured: with "
                "tiny-sd the cosine of slopes at mu = 1e-3 to the true ones falls from 1.00 to 0.93, at 1e-4 to 0.40; "
                "in Stable Diffusion 1.5 with random weights, which hardly hears a word, nothing is left of them, nor "
                "at 1e-2. Take float16 or float32; else a larger mu, such as the paper's 1e-2 for four bits",
                stacklevel=2,
            )
        self.pipe = pipe
        self.token = token
        self.latents = latents
        self.timesteps = timesteps
        self.prompts = [c.replace("{}", token.word) for c in captions]
        self.max_batch = max_batch
        for prompt in self.prompts:  # one that is too long must not wait for its turn in the middle of a run
            token.ids(prompt)

    def identity(self) -> Identity:
        """What decides the losses, by name: all that tells this objective from another.

        Left out is `max_batch`, by which only rounding changes.
        """
        schedule, unet = self.pipe.scheduler, self.pipe.unet
        # to four digits, for their last ones come from the version of torch
        signal = " ".join(f"{a:.4g}" for a in schedule.alphas_cumprod[::111].tolist())
        return {
            "objective": described(type(self)),
            "captions": repr(self.prompts),
            **self.token.identity(self.prompts),
            "timesteps": described(self.timesteps),
            "pictures": [*sketch(self.latents.mean), *sketch(self.latents.std)],
            "U-Net": fingerprint(unet.state_dict(), f"{unet.config.sample_size * self.pipe.vae_scale_factor} pixels"),
            "schedule": f"{schedule.config.prediction_type} {signal}",
        }

    def draw(self, generator: torch.Generator, t: Tensor | None = None) -> Draw:
        """Choose a picture, a timestep (unless t (1,) is given) and noise. All chance comes from the generator."""
        image = torch.randint(len(self.latents), (1,), generator=generator)
        z = self.latents.sample(image, generator)
        noise = torch.randn(z.shape, generator=generator).to(z)
        if t is None:
            t = self.timesteps.sample(1, generator)
        return Draw(int(image), t, z, noise)

    def bank(self, size: int, generator: torch.Generator) -> list[Draw]:
        """A fixed set of draws to measure any token by, where single draws would give a loss that jumps with the dice.

        Its timesteps are sampled together, so that `Stratified` can spread them.
        """
        return [self.draw(generator, t) for t in self.timesteps.sample(size, generator).split(1)]

    def __call__(self, theta: Tensor, draw: Draw) -> Tensor:
        """Losses (b,) of candidates theta (b, k, d), in chunks of at most `max_batch`. Differentiable in theta."""
        return self.residuals(theta, draw).square().mean(1)

    def residuals(self, theta: Tensor, draw: Draw) -> Tensor:
        """The errors whose mean square is the loss, (b, m): predicted noise less true, for candidates theta (b, k, d).

        m = c h w numbers where the loss keeps one: the same forward passes say how *each* of them answers to the word.
        In fp32, in chunks of at most `max_batch`. Differentiable in theta. (For v prediction, v stands for the noise.)
        """
        schedule = self.pipe.scheduler
        # by the definition: some schedulers' own add_noise, such as SDXL's Euler's, leaves z as long as it was
        alpha = schedule.alphas_cumprod.to(draw.z)[draw.t]
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        z_t = signal * draw.z + spread * draw.noise
        epsilon = schedule.config.prediction_type == "epsilon"
        target = draw.noise if epsilon else signal * draw.noise - spread * draw.z
        predicted = torch.cat([self.predict(chunk, draw, z_t) for chunk in theta.split(self.max_batch)])
        return (predicted.float() - target.float()).flatten(1)

    def predict(self, theta: Tensor, draw: Draw, z_t: Tensor) -> Tensor:
        """What the U-Net answers, (b, c, h, w), to the noisy latent z_t (1, c, h, w) and each candidate (b, k, d).

        All candidates go through together. Another engine than PyTorch computes this, and nothing else, its own way.
        """
        told = self.token.encode(theta, [self.prompts[draw.image]]).of(0)
        z_t = z_t.to(told["encoder_hidden_states"])
        predicted: Tensor = self.pipe.unet(z_t.expand(len(theta), -1, -1, -1), draw.t.to(z_t.device), **told).sample
        return predicted

    def mean(self, theta: Tensor, bank: list[Draw]) -> Tensor:
        """Mean losses (b,) of candidates theta (b, k, d) over a bank, without gradients."""
        with torch.no_grad():  # and not inference_mode(), in which forward-mode derivatives are lost
            return torch.stack([self(theta, draw) for draw in bank]).mean(0)
