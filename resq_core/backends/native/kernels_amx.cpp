#define RESQ_ISA amx
#include "kernels_impl.hpp"
