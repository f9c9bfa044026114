// A channel of height 1 and length 2.5 with a cylinder of diameter 0.2, in channel heights.
// Sides: 1 inflow (left), 2 outflow (right), 3 walls (below and above), 4 cylinder.
length = 2.5;
height = 1;
centre_x = 0.5;
centre_y = 0.48; // not in the middle, so that the flow is not symmetric
radius = 0.1;
near = 0.025; // cell size on the cylinder
far = 0.06;   // cell size on the walls

Point(1) = {0, 0, 0, far};
Point(2) = {length, 0, 0, far};
Point(3) = {length, height, 0, far};
Point(4) = {0, height, 0, far};
Point(5) = {centre_x, centre_y, 0};
Point(6) = {centre_x + radius, centre_y, 0, near};
Point(7) = {centre_x, centre_y + radius, 0, near};
Point(8) = {centre_x - radius, centre_y, 0, near};
Point(9) = {centre_x, centre_y - radius, 0, near};

Line(1) = {1, 2};
Line(2) = {2, 3};
Line(3) = {3, 4};
Line(4) = {4, 1};
Circle(5) = {6, 5, 7};
Circle(6) = {7, 5, 8};
Circle(7) = {8, 5, 9};
Circle(8) = {9, 5, 6};

Curve Loop(1) = {1, 2, 3, 4};
Curve Loop(2) = {5, 6, 7, 8};
Plane Surface(1) = {1, 2};

Physical Curve("inflow", 1) = {4};
Physical Curve("outflow", 2) = {2};
Physical Curve("walls", 3) = {1, 3};
Physical Curve("cylinder", 4) = {5, 6, 7, 8};
Physical Surface("fluid", 5) = {1};
