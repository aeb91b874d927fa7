"""A lifecycle node that declares the parameters of `parameters.yaml`, and refuses what they cannot be in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from kd_perception.ros import parameters
from kd_perception.ros.parameter_spec import ParameterError, ParameterSpec, shown


class ParameterNode(LifecycleNode):
    """Reads every value the same way (`ParameterSpec.read`), whether a file, the command line or a service brings it.

    Attributes:
        refused_parameters: parameter → why the value that it was started with is refused. It has its default meanwhile, and the
            node is not to be configured before a good value is set.
        values: of the parameters; another object after each change. Reading them here costs a frame less than asking rclpy.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.refused_parameters: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        for spec in parameters.specs().values():
            value = self.values[spec.name] = self._starting_value(spec)
            self.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
        self._warn_of_misspelt_parameters()
        for service in self.services:
            if service.srv_type in (SetParameters, SetParametersAtomically):
                service.callback = _known_types_only(service.callback)

    def _starting_value(self, spec: ParameterSpec) -> Any:
        given = parameters.given_at_start(self, spec.name, spec.former_name)
        if given is None:
            return spec.default_value
        self._warn_of_former_name(given.name, spec)
        try:
            return spec.read(given.value)
        except ParameterError as error:
            self.refused_parameters[spec.name] = str(error)
            return spec.default_value

    def _warn_of_former_name(self, name: str, spec: ParameterSpec) -> None:
        if name != spec.name:
            self.get_logger().warning(f'the parameter {name} is called {spec.name} now; the old name still works')

    def _warn_of_misspelt_parameters(self) -> None:
        for name in getattr(self, '_parameter_overrides', {}):
            hint = parameters.nearest(name)
            if hint and parameters.find(name) is None and not self.has_parameter(name):
                self.get_logger().warning(f'there is no parameter {name!r}{hint}')

    def setting(self, name: str, changes: dict[str, Any] | None = None) -> Any:
        """The value of a parameter, or the one that `changes` are about to give it."""
        return changes[name] if changes and name in changes else self.values[name]

    # What the parameter services call

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """See `rclpy.node.Node.set_parameters`; what is refused, and why, is in the results."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """See `rclpy.node.Node.set_parameters_atomically`.

        A read-only parameter may be set to the value that it has: so a node loads its own dump.
        """
        try:
            changes = [change for given in parameter_list if (change := self._change(given)) is not None]
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not changes:
            return SetParametersResult(successful=True)
        result = super().set_parameters_atomically(changes)
        if result.successful:
            self.values = {name: self.get_parameter(name).value for name in self.values}
            for change in changes:
                self.refused_parameters.pop(change.name, None)
        return result

    def _change(self, given: Parameter) -> Parameter | None:
        """What setting a parameter comes to; None where it changes nothing that may be changed."""
        spec = parameters.find(given.name)
        if spec is None:
            return self._change_of_another(given)
        self._warn_of_former_name(given.name, spec)
        if given.type_ == Parameter.Type.NOT_SET:
            raise ParameterError(f'{spec.name} cannot be deleted')
        value = spec.read(given.value)
        if spec.read_only:
            self._check_unchanged(spec.name, value)
            return None
        return Parameter(spec.name, spec.ros_type, value)

    def _change_of_another(self, given: Parameter) -> Parameter | None:
        """Of a parameter that ROS itself declares: use_sim_time, qos_overrides."""
        if not self.has_parameter(given.name):
            raise ParameterError(f'there is no parameter {shown(given.name)}{parameters.nearest(given.name)}')
        if self.describe_parameter(given.name).read_only:
            self._check_unchanged(given.name, given.value)
            return None
        return given

    def _check_unchanged(self, name: str, value: Any) -> None:
        if value != self.get_parameter(name).value:
            raise ParameterError(
                f'{name} is read-only while the node runs: start it again with another value in its parameter file or launch '
                f'argument'
            )


def _known_types_only(callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A parameter service that refuses types which ROS does not have: rclpy ends the node for them."""
    known = {kind.value for kind in Parameter.Type}

    def answer(request: Any, response: Any) -> Any:
        unknown = [shown(given.name) for given in request.parameters if given.value.type not in known]
        if not unknown:
            return callback(request, response)
        refusal = SetParametersResult(successful=False, reason=f'a type that ROS does not have: {unknown[0]}')
        if isinstance(response, SetParametersAtomically.Response):
            response.result = refusal
        else:
            response.results = [refusal] * len(request.parameters)
        return response

    return answer
