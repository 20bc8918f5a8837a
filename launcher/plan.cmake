# What `ballot plan` predicts and measures, apart from flags.
add_library(ballot_units STATIC units.cpp)
target_link_libraries(ballot_units PUBLIC ballot_core)
add_library(ballot_plan STATIC plan.cpp plan_output.cpp rates.cpp)
target_link_libraries(ballot_plan PUBLIC ballot_bench ballot_units PRIVATE nlohmann_json::nlohmann_json)
