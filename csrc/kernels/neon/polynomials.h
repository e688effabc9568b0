/* Made by polynomials.py. Polynomials by ascending power. */
#ifndef TXK_NEON_POLYNOMIALS_H
#define TXK_NEON_POLYNOMIALS_H

/* u = 1 / (1 + mills t) */
static const float poly_mills = 0x1.6000000000000p-2f;

/* erfc(t / sqrt 2) / 2 e^(t^2/2) / u in powers of u */
static const float poly_normal_tail[9] = {
    0x1.18d2320000000p-3f, 0x1.19afc40000000p-3f, 0x1.de2b3c0000000p-4f, 0x1.cd72780000000p-4f,
    -0x1.4201160000000p-5f, 0x1.87018a0000000p-3f, -0x1.163c2a0000000p-2f, 0x1.269a560000000p-3f,
    -0x1.c7a0b40000000p-6f,
};

#endif
