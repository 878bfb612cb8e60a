# SPDX-License-Identifier: Apache-2.0
platen_test(test_scheduler SOURCES test_scheduler.c LINK platen_prefill LABELS unit threads)
platen_test(test_prefill_options SOURCES test_prefill_options.c LINK platen_prefill LABELS unit)
platen_test(test_prefill_forward SOURCES test_prefill_forward.c small_prefill.c small_model.c LINK platen_prefill LABELS unit)
platen_test(test_engine SOURCES test_engine.c small_prefill.c small_model.c LINK platen_prefill TIMEOUT 300 LABELS unit threads)
platen_test(test_run SOURCES test_run.c small_prefill.c small_model.c LINK platen_prefill TIMEOUT 300 LABELS unit)
