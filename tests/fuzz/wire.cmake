# SPDX-License-Identifier: Apache-2.0
platen_fuzz(fuzz_wire SEEDS wire SOURCES fuzz_wire.c LINK platen_transport)
