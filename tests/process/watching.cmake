# Runs that a real Prometheus looks at (deploy/packages-test).
ballot_test(process_watching_test watching_test.cpp LINK ballot_process_support LABELS process TIMEOUT 400)
target_compile_definitions(process_watching_test PRIVATE BALLOT_SOURCE_FOLDER="${PROJECT_SOURCE_DIR}")
set_tests_properties(process_watching_test PROPERTIES PROCESSORS 2)
