"""A lifecycle node that goes on answering while it configures, logs its transitions, and leaves nothing behind when one fails."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from kd_perception.errors import KdPerceptionError

SUCCESS, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.ERROR

N = TypeVar('N', bound='ResponsiveLifecycleNode')
T = TypeVar('T')


def transition(
    work: Callable[[N, LifecycleState], TransitionCallbackReturn],
) -> Callable[[N, LifecycleState], TransitionCallbackReturn]:
    """Log the end of a transition. rclpy swallows exceptions: here they are logged, and `on_error` cleans up."""
    name = work.__name__.removeprefix('on_')

    @functools.wraps(work)
    def logged(self: N, state: LifecycleState) -> TransitionCallbackReturn:
        if name != 'error':  # which cleans up after the failure that it keeps
            self.transition_failure = ''
        try:
            result = work(self, state)
        except KdPerceptionError as error:
            self.transition_failure = f'{name} failed: {error}'
            self.get_logger().error(self.transition_failure)
            return ERROR
        except Exception as error:
            self.transition_failure = f'{name} failed: {error!r}'
            self.get_logger().error(f'{name} failed:\n{traceback.format_exc()}')
            return ERROR
        if result == SUCCESS:
            self.get_logger().info(f'{name}: done')
        return result

    return logged


class ResponsiveLifecycleNode(LifecycleNode):
    """Configures in a thread of its own when `~/change_state` asks for it, since that may take minutes.

    Other transitions are refused meanwhile. `start_by_itself` configures and activates without being asked.

    Attributes:
        transition_failure: why the last transition failed half-way; empty where it did not.
        is_starting: whether it is about to configure, or configures, by itself.
        aside: the group of callbacks that await something while all others go on.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.transition_failure = ''
        self.is_starting = False
        self._woken = self.create_guard_condition(lambda: None)
        self.aside = ReentrantCallbackGroup()
        service = self._service_change_state
        self._change_state = service.callback
        service.callback, service.callback_group = self._on_change_state, self.aside
        self.aside.add_entity(service)

    @property
    def lifecycle_state(self) -> str:
        """The label of the state, such as `active`."""
        return str(self._state_machine.current_state[1])

    def start_by_itself(self) -> None:
        """Configure and activate as soon as the node is spun."""
        self.is_starting = True
        # A timer: a guard condition that is triggered before the node is spun may be overlooked.
        self._autostart = self.create_timer(
            0.0, self._configure_and_activate, callback_group=self.aside, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    async def _configure_and_activate(self) -> None:
        self._autostart.cancel()
        try:
            if self.lifecycle_state == 'unconfigured' and await self._beside(self.trigger_configure) == SUCCESS:
                self.trigger_activate()
        finally:
            self.is_starting = False

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        asked = request.transition
        if asked.label == 'configure' or (not asked.label and asked.id == Transition.TRANSITION_CONFIGURE):
            return await self._beside(lambda: self._change_state(request, response))
        return self._change_state(request, response)

    async def _beside(self, work: Callable[[], T]) -> T:
        """Work in a thread while the executor goes on."""
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            wake(self._woken)

        threading.Thread(target=run, name='configuring', daemon=True).start()
        result: T = await future
        return result


def wake(guard: GuardCondition) -> None:
    """Trigger a guard condition, from any thread; where its node is gone, nobody waits."""
    with suppress(InvalidHandle):
        guard.trigger()
