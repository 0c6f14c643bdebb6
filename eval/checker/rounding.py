"""What the checker counts for rounding.

With `u = 2^-24` a float32 sum of `n` terms is within `gamma_n = n u / (1 - n u)` times the sum of
absolute values, in any order (Higham 2002, section 3.1); the same holds with `u = 2^-53` for what
is computed here. Every affine operation is allowed to be off by that much, and its backward pass is
charged for it at the next ReLU.
"""

UNIT32, UNIT64 = 2.0**-24, 2.0**-53
#: Float32's smallest normal number, and a quarter of its largest.
SMALLEST, LARGEST = 2.0**-126, 2.0**126
#: What underflow in float64 can add up to in a whole bound, many times over.
TINY = 1e-110
#: A handful of float64 roundings; and a factor on what is known up to thousands of them.
FEW, ROUNDED = 8 * UNIT64, 1 + 2.0**-30
