# SPDX-License-Identifier: Apache-2.0
foreach(file call channel server tls)
    platen_test(test_rpc_${file} SOURCES test_rpc_${file}.c rpc_pair.c LINK platen_rpc LABELS unit)
endforeach()
platen_test(test_rpc_chunk SOURCES test_rpc_chunk.c LINK platen_rpc LABELS unit)
platen_test(test_rpc_details SOURCES test_rpc_details.c LINK platen_rpc LABELS unit)
platen_test(test_rpc_message SOURCES test_rpc_message.c LINK platen_rpc LABELS unit)
platen_test(test_rpc_token SOURCES test_rpc_token.c LINK platen_rpc LABELS unit)
