# Every command that a person or CI may run.
PY := .venv/bin/python

proto:  ## Regenerate the protobuf code
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/oprime_proto/v1/*.proto
