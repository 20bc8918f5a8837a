# What a run can be resumed from: staging, shares, publishing, and runs that save while they train.
foreach(name staging parts share publish writer run)
  ballot_test(checkpoint_${name}_test checkpoint_${name}_test.cpp LINK ballot_trainer nlohmann_json::nlohmann_json)
endforeach()
