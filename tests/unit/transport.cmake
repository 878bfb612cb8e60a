# SPDX-License-Identifier: Apache-2.0
platen_test(test_lease SOURCES test_lease.c LINK platen_transport LABELS unit)
platen_test(test_transport SOURCES test_transport.c LINK platen_transport LABELS unit)
platen_test(test_receiver SOURCES test_receiver.c wire_maker.c LINK platen_transport LABELS unit)
platen_test(test_shipper SOURCES test_shipper.c wire_maker.c LINK platen_transport LABELS unit)
platen_test(test_grpc SOURCES test_grpc.c wire_maker.c LINK platen_transport LABELS unit)
platen_test(test_transfer SOURCES test_transfer.c LINK platen_transport LABELS unit)
platen_test(test_nccl SOURCES test_nccl.c fake_nccl.c LINK platen_transport LABELS unit)
platen_test(test_stations SOURCES test_stations.c fake_nccl.c wire_maker.c LINK platen_transport LABELS unit)
