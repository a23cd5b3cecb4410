"""The package's rules written for all runs of a race at once, to hold the package against."""

import torch


def centred(rewards):
    return rewards - rewards.mean(-1, keepdim=True)


def seq(draw):
    return centred(draw.rewards)[..., None].expand(draw.ok.shape)


def decided(draw):
    """No credit after the first error, nor after the last decision."""
    last = torch.arange(draw.chain.length) <= draw.chain.places[-1]
    keep = torch.ones_like(draw.ok) if draw.chain.graded else before(draw.ok)
    return seq(draw) * keep * last


def before(ok):
    """Whether all tokens before a token are right."""
    return torch.cat([torch.ones_like(ok[..., :1]), ok.cumprod(-1)[..., :-1].bool()], -1)


def values(draw):
    """V_i of the states on the way of i: the other completions of the run that visit them."""
    count = draw.chain.completions
    ok = draw.ok.flatten(1, 2)  # (S, N, T)
    rewards = draw.rewards.flatten(1)
    right = torch.cat(
        [torch.zeros_like(ok[..., :1]).long(), (ok & draw.chain.decides).cumsum(-1)], -1
    )
    alive = torch.cat([torch.ones_like(ok[..., :1]), ok.cumprod(-1).bool()], -1)
    place = torch.arange(draw.chain.length + 1)
    states = place * 100 + right if draw.chain.graded else torch.where(alive, place + 1, 0)
    others = (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
    number, total = (torch.zeros(*states.shape) for _ in range(2))
    for j in range(count):  # does j visit the states of i?
        visits = (states[:, :, :, None] == states[:, j, None, None, :]).any(-1)
        visits[:, j] = False
        number += visits
        total += visits * rewards[:, j, None, None]
    found = (total + others[..., None]) / (number + 1)
    return found.view(*draw.ok.shape[:-1], -1)


def automaton(draw):
    return draw.rewards[..., None] - values(draw)[..., :-1]


def automaton_td(draw):
    return torch.cat([values(draw)[..., :-1], draw.rewards[..., None]], -1).diff(dim=-1)


def shared(draw):
    """Whether i and j of a group have the same first tokens, (S, P, G, G, T)."""
    same = draw.tokens[:, :, :, None] == draw.tokens[:, :, None]
    return same.cumprod(-1).float()


def tree_td(draw):
    through = shared(draw)
    mean = (through * draw.rewards[:, :, None, :, None]).sum(3) / through.sum(3)
    mean[..., -1] = draw.rewards
    start = draw.rewards.mean(-1, keepdim=True)[..., None].expand(*draw.rewards.shape, 1)
    return torch.cat([start, mean], -1).diff(dim=-1)


def prefix_tree(draw):
    return seq(draw) / shared(draw).sum(3)


def spans(draw):
    """Each decision's own share, centred, on its token, T times as strong; `all` names none."""
    advantage = centred(draw.ok.transpose(2, 3).float()).transpose(2, 3)
    return advantage * draw.chain.decides * draw.chain.length / draw.chain.decisions


def steps(draw):
    """The centred shares of the decisions from a token on."""
    earned = draw.ok.float() / draw.chain.decisions
    mean = earned[..., draw.chain.places].mean((2, 3), keepdim=True)
    return ((earned - mean) * draw.chain.decides).flip(-1).cumsum(-1).flip(-1)


EVERYWHERE = {
    "seq": seq,
    "decided/seq": decided,
    "automaton/seq": automaton,
    'automaton/seq {"mode": "td"}': automaton_td,
    "tree_td/seq": tree_td,
    "prefix_tree/seq": prefix_tree,
}
GRADED = {"spans/seq": spans, "steps/seq": steps}
