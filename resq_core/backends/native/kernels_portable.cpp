#define RESQ_ISA portable
#include "kernels_impl.hpp"
