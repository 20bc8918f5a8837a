// Empty: clang 19's wrapper of the CUDA headers includes a file of this name, which CUDA 13 no
// longer has.
