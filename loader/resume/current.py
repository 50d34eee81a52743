"""The state of a loader at a place of its order."""

from roboshard.loader.job import LoadJob, Plan
from roboshard.loader.order.mixture import MixturePlan
from roboshard.loader.resume.state import STATE_VERSION, LoaderState, MixtureState


def current_state(
    job: LoadJob, plan: Plan, selection: str, *, epoch: int, step: int
) -> LoaderState:
    """Return the state after some steps of an epoch, and what a mixture has drawn by then.

    Args:
        job: what is loaded.
        plan: the order of any epoch.
        selection: digests of the rows in use.
        epoch: which epoch.
        step: how many of its steps the user has received.
    """
    order, slots, sources = job.config.order, job.slots, job.sources
    state = LoaderState(
        version=STATE_VERSION,
        fingerprint=",".join(source.dataset.manifest.fingerprint for source in sources),
        selection=selection,
        seed=order.seed,
        epoch=epoch,
        step=step,
        global_batch_size=slots.global_batch_size,
        rank_slots=slots.rank_slots,
        shuffle=order.shuffle,
        pool_episodes=order.pool_episodes,
        episode_order=order.episode_order,
        frame_order=order.frame_order,
        drop_last=order.drop_last,
    )
    if not isinstance(plan, MixturePlan):
        return state
    drawn = [{"epoch": own, "samples": samples} for own, samples in plan.drawn(epoch, step)]
    return MixtureState(
        **state.as_dict(), weights=list(plan.parts), drawn=drawn, batches=order.batches
    )
