# What others see of a run: Prometheus, its dashboard, TensorBoard.
ballot_test(watching_test watching_test.cpp LINK ballot_coordinator_watch nlohmann_json::nlohmann_json)
target_compile_definitions(watching_test PRIVATE BALLOT_SOURCE_FOLDER="${PROJECT_SOURCE_DIR}")
ballot_test(tensorboard_test tensorboard_test.cpp LINK ballot_trainer ballot_tensorboard ballot_proto)
