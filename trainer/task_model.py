"""The run's model as lm-evaluation-harness asks it: log-likelihoods of text, and greedy text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from tokenizers import Tokenizer
from torch import Tensor

from smolplan.errors import UserError
from trainer.greedy import Draft, write
from trainer.held_out import BATCH_TOKENS
from trainer.model.transformer import CausalLM

GENERATED_TOKENS = 256
"""Where a task names no number, as in lm-eval's own models."""

GPU_LENGTHS = 128
"""On a GPU rows are as long as a multiple of it, FlexAttention's blocks. For lengths of other kinds
its kernels are compiled anew, up to eight times (torch._dynamo.config.recompile_limit), and then no
more: all scores would be held."""

Say = Callable[[str], None]


class TaskModel(TemplateLM):  # type: ignore[misc]
    """Documents are masked as in training, and the separator stands for an empty context. Text
    longer than the model's `length` tokens loses its beginning."""

    def __init__(
        self, model: CausalLM, tokenizer: Tokenizer, separator: int, length: int, say: Say
    ) -> None:
        super().__init__()
        self._model, self._tokenizer, self._separator = model, tokenizer, separator
        self._length, self._say = length, say
        self._device = model.lm_head.weight.device
        self._lengths = GPU_LENGTHS if self._device.type == "cuda" else 1

    @property
    def eot_token_id(self) -> int:
        return self._separator

    def tok_encode(self, string: str, **_: object) -> list[int]:
        ids: list[int] = self._tokenizer.encode(string, add_special_tokens=False).ids
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        before, after = super()._encode_pair(context, continuation)
        # One that has merged with the context's last token would have nothing to be judged by.
        return before, after or self.tok_encode(continuation)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        whole = [(r.args, [self._separator], self.tok_encode(r.args[0])) for r in requests]
        return [total for total, _ in self._loglikelihood_tokens(whole)]

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        """Of each (text, context, continuation): log-probability of the continuation in nats, and
        whether greedy text would be the same."""
        pieces = [
            (number, given, wanted)
            for number, (_, context, continuation) in enumerate(requests)
            for given, wanted in windows(context, continuation, self._length)
        ]
        answers = [(0.0, True)] * len(requests)
        # The longest first, so that what does not fit into memory is known at once.
        pieces.sort(key=lambda piece: -len(piece[1]))
        done = 0
        for batch in _batches(pieces, self._padded):
            self._say(f"{done:,} of {len(pieces):,} texts scored")
            hidden = self._hidden([given for _, given, _ in batch])
            for row, (number, given, wanted) in zip(hidden, batch, strict=True):
                logits = self._model.lm_head(row[len(given) - len(wanted) : len(given)])
                logs = logits.float().log_softmax(dim=-1)
                targets = torch.tensor(wanted, device=logs.device)
                total = logs.gather(1, targets[:, None]).sum().item()
                same = bool((logs.argmax(dim=-1) == targets).all())
                answers[number] = answers[number][0] + total, answers[number][1] and same
            done += len(batch)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Raises UserError for a task that draws at random: its score would not come again."""
        drafts = [self._draft(request) for request in requests]
        # Those of like length together, so that little is padding.
        order = sorted(drafts, key=lambda draft: -len(draft.tokens))
        at_a_time = max(1, BATCH_TOKENS // self._length)
        for first in range(0, len(order), at_a_time):
            self._say(f"{first:,} of {len(order):,} texts written")
            group = order[first : first + at_a_time]
            write(group, self._next_tokens, self._tokenizer, self._separator)
        return [draft.text for draft in drafts]

    def _draft(self, request: Instance) -> Draft:
        wanted = normalize_gen_kwargs(request.args[1], GENERATED_TOKENS)
        if wanted["do_sample"]:
            raise UserError(
                f"{request.task_name} draws its answers at random (do_sample)",
                where="eval.tasks",
                remedy="Leave it out: text is written greedily here.",
            )
        prompt = self.tok_encode(request.args[0]) or [self._separator]
        return Draft(prompt, wanted["until"], wanted["max_gen_toks"])

    @torch.no_grad()
    def _next_tokens(self, rows: list[list[int]]) -> list[int]:
        seen = [row[-self._length :] for row in rows]
        ends = torch.tensor([len(row) - 1 for row in seen], device=self._device)
        last = self._hidden(seen)[torch.arange(len(seen), device=self._device), ends]
        likeliest: list[int] = self._model.lm_head(last).argmax(dim=-1).tolist()
        return likeliest

    def _hidden(self, rows: list[list[int]]) -> Tensor:
        """(batch, longest, hidden), for a row's own tokens as if it were alone: what is after a
        token does not reach it."""
        longest = self._padded(max(map(len, rows)))
        padded = [row + [self._separator] * (longest - len(row)) for row in rows]
        tokens = torch.tensor(padded, device=self._device)
        return self._model.hidden(tokens, self._separator)

    def _padded(self, length: int) -> int:
        """To so many tokens, of those that the model can see."""
        return min(-(-length // self._lengths) * self._lengths, self._length)


def windows(
    context: list[int], continuation: list[int], length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """What a model of `length` tokens is given, and the tokens that it is to tell of the last of
    these: each token of the continuation once, with as much before it as there is room for."""
    whole = context + continuation
    for first in range(len(context), len(whole), length):
        last = min(first + length, len(whole))
        yield whole[max(0, last - 1 - length) : last - 1], whole[first:last]


def _batches(
    pieces: list[tuple[int, list[int], list[int]]], padded: Callable[[int], int]
) -> Iterator[list[tuple[int, list[int], list[int]]]]:
    """Of pieces by length, the longest first: as many as BATCH_TOKENS hold, one at least."""
    first = 0
    while first < len(pieces):
        count = max(1, BATCH_TOKENS // padded(len(pieces[first][1])))
        yield pieces[first : first + count]
        first += count
