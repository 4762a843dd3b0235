from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CORRECT: _ClassVar[Verdict]
    VERDICT_INCORRECT: _ClassVar[Verdict]
    VERDICT_PARTIAL: _ClassVar[Verdict]
    VERDICT_UNDECIDED: _ClassVar[Verdict]
    VERDICT_NO_ANSWER: _ClassVar[Verdict]
    VERDICT_TIME: _ClassVar[Verdict]
    VERDICT_MEMORY: _ClassVar[Verdict]
    VERDICT_OUTPUT: _ClassVar[Verdict]
    VERDICT_RUNTIME: _ClassVar[Verdict]
    VERDICT_COMPILE: _ClassVar[Verdict]
    VERDICT_VIOLATION: _ClassVar[Verdict]
    VERDICT_BAD_TASK: _ClassVar[Verdict]
    VERDICT_INFRA_ERROR: _ClassVar[Verdict]
    VERDICT_NOT_APPLICABLE: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_CORRECT: Verdict
VERDICT_INCORRECT: Verdict
VERDICT_PARTIAL: Verdict
VERDICT_UNDECIDED: Verdict
VERDICT_NO_ANSWER: Verdict
VERDICT_TIME: Verdict
VERDICT_MEMORY: Verdict
VERDICT_OUTPUT: Verdict
VERDICT_RUNTIME: Verdict
VERDICT_COMPILE: Verdict
VERDICT_VIOLATION: Verdict
VERDICT_BAD_TASK: Verdict
VERDICT_INFRA_ERROR: Verdict
VERDICT_NOT_APPLICABLE: Verdict

class VerifyRequest(_message.Message):
    __slots__ = ("request_id", "task_id", "kind", "response", "prompt", "golds", "tests", "math", "code", "other", "deadline_s", "group_id", "seed", "data_source", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    GOLDS_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    MATH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task_id: str
    kind: str
    response: str
    prompt: str
    golds: _containers.RepeatedScalarFieldContainer[str]
    tests: str
    math: MathOptions
    code: CodeOptions
    other: _struct_pb2.Struct
    deadline_s: float
    group_id: str
    seed: int
    data_source: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., kind: _Optional[str] = ..., response: _Optional[str] = ..., prompt: _Optional[str] = ..., golds: _Optional[_Iterable[str]] = ..., tests: _Optional[str] = ..., math: _Optional[_Union[MathOptions, _Mapping]] = ..., code: _Optional[_Union[CodeOptions, _Mapping]] = ..., other: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., deadline_s: _Optional[float] = ..., group_id: _Optional[str] = ..., seed: _Optional[int] = ..., data_source: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class MathOptions(_message.Message):
    __slots__ = ("bare", "boxes", "unmarked", "reasoning_tags", "answer_tags", "answer_heading", "starts_in_reasoning", "decimal_digits", "relative_tolerance", "absolute_tolerance", "percent_bare", "unit_optional", "unit_conversion", "degrees_radians", "base_optional", "list_order", "inequality_for_interval", "strict_form", "symbolic_deadline_s")
    BARE_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    UNMARKED_FIELD_NUMBER: _ClassVar[int]
    REASONING_TAGS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_TAGS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_HEADING_FIELD_NUMBER: _ClassVar[int]
    STARTS_IN_REASONING_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_DIGITS_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_BARE_FIELD_NUMBER: _ClassVar[int]
    UNIT_OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_CONVERSION_FIELD_NUMBER: _ClassVar[int]
    DEGREES_RADIANS_FIELD_NUMBER: _ClassVar[int]
    BASE_OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    LIST_ORDER_FIELD_NUMBER: _ClassVar[int]
    INEQUALITY_FOR_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    STRICT_FORM_FIELD_NUMBER: _ClassVar[int]
    SYMBOLIC_DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    bare: bool
    boxes: str
    unmarked: str
    reasoning_tags: _containers.RepeatedScalarFieldContainer[str]
    answer_tags: _containers.RepeatedScalarFieldContainer[str]
    answer_heading: bool
    starts_in_reasoning: bool
    decimal_digits: int
    relative_tolerance: float
    absolute_tolerance: float
    percent_bare: bool
    unit_optional: bool
    unit_conversion: bool
    degrees_radians: bool
    base_optional: bool
    list_order: str
    inequality_for_interval: bool
    strict_form: bool
    symbolic_deadline_s: float
    def __init__(self, bare: _Optional[bool] = ..., boxes: _Optional[str] = ..., unmarked: _Optional[str] = ..., reasoning_tags: _Optional[_Iterable[str]] = ..., answer_tags: _Optional[_Iterable[str]] = ..., answer_heading: _Optional[bool] = ..., starts_in_reasoning: _Optional[bool] = ..., decimal_digits: _Optional[int] = ..., relative_tolerance: _Optional[float] = ..., absolute_tolerance: _Optional[float] = ..., percent_bare: _Optional[bool] = ..., unit_optional: _Optional[bool] = ..., unit_conversion: _Optional[bool] = ..., degrees_radians: _Optional[bool] = ..., base_optional: _Optional[bool] = ..., list_order: _Optional[str] = ..., inequality_for_interval: _Optional[bool] = ..., strict_form: _Optional[bool] = ..., symbolic_deadline_s: _Optional[float] = ...) -> None: ...

class CodeOptions(_message.Message):
    __slots__ = ("language", "bare", "entry_point", "usual_imports", "comparison", "abs_tolerance", "rel_tolerance", "strict_types", "checker", "checker_language", "scoring", "first_k", "partial", "cpu_s", "cpu_factor", "wall_s", "memory_mib", "output_mib", "allow_nonzero_exit", "profile", "reruns")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    BARE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_POINT_FIELD_NUMBER: _ClassVar[int]
    USUAL_IMPORTS_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    ABS_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    REL_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    STRICT_TYPES_FIELD_NUMBER: _ClassVar[int]
    CHECKER_FIELD_NUMBER: _ClassVar[int]
    CHECKER_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SCORING_FIELD_NUMBER: _ClassVar[int]
    FIRST_K_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    CPU_FACTOR_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MIB_FIELD_NUMBER: _ClassVar[int]
    ALLOW_NONZERO_EXIT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    RERUNS_FIELD_NUMBER: _ClassVar[int]
    language: str
    bare: bool
    entry_point: str
    usual_imports: bool
    comparison: str
    abs_tolerance: float
    rel_tolerance: float
    strict_types: bool
    checker: str
    checker_language: str
    scoring: str
    first_k: int
    partial: bool
    cpu_s: float
    cpu_factor: float
    wall_s: float
    memory_mib: int
    output_mib: float
    allow_nonzero_exit: bool
    profile: str
    reruns: int
    def __init__(self, language: _Optional[str] = ..., bare: _Optional[bool] = ..., entry_point: _Optional[str] = ..., usual_imports: _Optional[bool] = ..., comparison: _Optional[str] = ..., abs_tolerance: _Optional[float] = ..., rel_tolerance: _Optional[float] = ..., strict_types: _Optional[bool] = ..., checker: _Optional[str] = ..., checker_language: _Optional[str] = ..., scoring: _Optional[str] = ..., first_k: _Optional[int] = ..., partial: _Optional[bool] = ..., cpu_s: _Optional[float] = ..., cpu_factor: _Optional[float] = ..., wall_s: _Optional[float] = ..., memory_mib: _Optional[int] = ..., output_mib: _Optional[float] = ..., allow_nonzero_exit: _Optional[bool] = ..., profile: _Optional[str] = ..., reruns: _Optional[int] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("request_id", "verdict", "score", "components", "answer", "reason", "tests", "timings", "verifier", "flags", "cacheable")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TimingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    CACHEABLE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: Verdict
    score: float
    components: _containers.ScalarMap[str, float]
    answer: str
    reason: str
    tests: _containers.RepeatedCompositeFieldContainer[TestResult]
    timings: _containers.ScalarMap[str, float]
    verifier: VerifierIdentity
    flags: _containers.RepeatedScalarFieldContainer[str]
    cacheable: bool
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., score: _Optional[float] = ..., components: _Optional[_Mapping[str, float]] = ..., answer: _Optional[str] = ..., reason: _Optional[str] = ..., tests: _Optional[_Iterable[_Union[TestResult, _Mapping]]] = ..., timings: _Optional[_Mapping[str, float]] = ..., verifier: _Optional[_Union[VerifierIdentity, _Mapping]] = ..., flags: _Optional[_Iterable[str]] = ..., cacheable: _Optional[bool] = ...) -> None: ...

class TestResult(_message.Message):
    __slots__ = ("index", "verdict", "cpu_s", "wall_s", "peak_bytes")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    index: int
    verdict: Verdict
    cpu_s: float
    wall_s: float
    peak_bytes: int
    def __init__(self, index: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., cpu_s: _Optional[float] = ..., wall_s: _Optional[float] = ..., peak_bytes: _Optional[int] = ...) -> None: ...

class VerifierIdentity(_message.Message):
    __slots__ = ("name", "version", "config_hash", "sandbox_profile")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_HASH_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_PROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    config_hash: str
    sandbox_profile: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., config_hash: _Optional[str] = ..., sandbox_profile: _Optional[str] = ...) -> None: ...
