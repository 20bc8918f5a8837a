# Elastic runs: `ballot coordinator` and `ballot train --coordinator` as processes.
ballot_test(process_elastic_test elastic_test.cpp LINK ballot_process_support LABELS process TIMEOUT 900)
set_tests_properties(process_elastic_test PROPERTIES PROCESSORS 2)
ballot_test(process_elastic_members_test elastic_members_test.cpp LINK ballot_process_support LABELS process TIMEOUT 900)
set_tests_properties(process_elastic_members_test PROPERTIES PROCESSORS 2)
