# Runs that a real Prometheus looks at (deploy/packages-test).
ballot_test(process_watching_test watching_test.cpp LINK ballot_process_support LABELS process TIMEOUT 900)
target_compile_definitions(process_watching_test PRIVATE BALLOT_SOURCE_FOLDER="${PROJECT_SOURCE_DIR}")
set_tests_properties(process_watching_test PROPERTIES PROCESSORS 2)

# Event files read by TensorBoard's own reader, a package of PyPI.
add_test(NAME tensorboard_reader COMMAND ${PROJECT_SOURCE_DIR}/tests/support/python ${PROJECT_BINARY_DIR}/tensorboard-python
  ${CMAKE_CURRENT_SOURCE_DIR}/event_files.requirements.txt ${CMAKE_CURRENT_SOURCE_DIR}/event_files.py $<TARGET_FILE:ballot>)
set_tests_properties(tensorboard_reader PROPERTIES LABELS process TIMEOUT 900 PROCESSORS 2)
