// The version of this build, from CMake's project().
#pragma once

namespace ballot {
const char* version();
}
