# What `ballot plan` predicts and measures, apart from flags.
add_library(ballot_plan STATIC plan.cpp plan_output.cpp rates.cpp units.cpp)
target_link_libraries(ballot_plan PUBLIC ballot_bench PRIVATE nlohmann_json::nlohmann_json)
