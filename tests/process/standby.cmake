# Coordinators that stand by for each other over a real etcd (deploy/packages-test).
ballot_test(process_standby_test standby_test.cpp LINK ballot_process_support ballot_coordinator LABELS process TIMEOUT 900)
set_tests_properties(process_standby_test PROPERTIES PROCESSORS 2)
