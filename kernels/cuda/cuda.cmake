# SPDX-License-Identifier: Apache-2.0
set(KERNELS_CUDA OFF)
