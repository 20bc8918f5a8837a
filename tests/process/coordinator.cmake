# `ballot coordinator` as a process; its workers are threads of the test.
ballot_test(process_coordinator_test coordinator_test.cpp LINK ballot_process_support ballot_coordinator LABELS process TIMEOUT 900)
set_tests_properties(process_coordinator_test PROPERTIES PROCESSORS 2)
