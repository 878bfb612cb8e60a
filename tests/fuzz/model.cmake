# SPDX-License-Identifier: Apache-2.0
foreach(format chat config gguf safetensors tokenizer)
    platen_fuzz(fuzz_${format} SEEDS ${format} SOURCES fuzz_${format}.c LINK platen_model PkgConfig::JANSSON)
endforeach()
