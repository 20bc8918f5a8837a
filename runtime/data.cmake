add_library(ballot_data STATIC token_source.cpp sampler.cpp
  data/encode_source.cpp data/first_sample.cpp data/packing.cpp data/row_encoder.cpp data/token_data.cpp data/token_file.cpp)
target_link_libraries(ballot_data PUBLIC ballot_models PRIVATE nlohmann_json::nlohmann_json)
