#define RESQ_ISA avx2
#include "kernels_impl.hpp"
