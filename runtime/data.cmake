add_library(ballot_data STATIC token_source.cpp sampler.cpp)
target_link_libraries(ballot_data PUBLIC ballot_models PRIVATE nlohmann_json::nlohmann_json)
