# SPDX-License-Identifier: Apache-2.0
# The default model is too large to commit; what needs it is skipped where it is not.
set(PLATEN_DEFAULT_MODEL ${PROJECT_SOURCE_DIR}/build/models/SmolLM2-135M-Instruct.Q4_1.gguf
    CACHE FILEPATH "the default model, for the tests that need it")
foreach(file chat checkpoint families gguf hparams safetensors tokenizer tokenizer_golden)
    platen_test(test_${file} SOURCES test_${file}.c LINK platen_model PkgConfig::JANSSON m LABELS unit)
    target_compile_definitions(test_${file} PRIVATE PLATEN_DEFAULT_MODEL="${PLATEN_DEFAULT_MODEL}")
endforeach()
