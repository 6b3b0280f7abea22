"""JobSet's schema and that of all of Kubernetes inside it, unknown fields forbidden.

From the models of the package kubeflow-trainer-api (Apache-2.0), which are generated
from the API's own description. The API server checks with the same schema in its CRD.
"""

import functools

import jsonschema


def _forbid(schema):
    """No property that is not listed, anywhere."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties") is None:
            schema["additionalProperties"] = False
        for value in schema.values():
            _forbid(value)
    elif isinstance(schema, list):
        for value in schema:
            _forbid(value)


@functools.cache
def _validator(model):
    schema = model.model_json_schema(by_alias=True)
    for name, one in schema["$defs"].items():
        # A number or a text (quantities, ports): the model is a box around it.
        if inside := one["properties"].get("actual_instance"):
            schema["$defs"][name] = inside
    _forbid(schema)
    return jsonschema.Draft202012Validator(schema)


def _problems(model, manifest):
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in _validator(model).iter_errors(manifest)
    ]


def problems(jobset):
    """Where a JobSet differs from its schema."""
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import (
        JobsetV1alpha2JobSet,
    )

    return _problems(JobsetV1alpha2JobSet, jobset)


def config_map_problems(config_map):
    """Where a ConfigMap differs from its schema."""
    from kubeflow_trainer_api.models.io_k8s_api_core_v1_config_map import (
        IoK8sApiCoreV1ConfigMap,
    )

    return _problems(IoK8sApiCoreV1ConfigMap, config_map)


def job_problems(job):
    """Where a plain Job differs from its schema."""
    from kubeflow_trainer_api.models.io_k8s_api_batch_v1_job import IoK8sApiBatchV1Job

    return _problems(IoK8sApiBatchV1Job, job)
