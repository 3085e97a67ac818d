"""What is wrong with data, said before a night is spent on it.

readers ──> checks, each over every example ──> findings, with file and line ──> a report, a page, a cleaned copy
"""

from ciyuan.doctor.examination import Examination as Examination
from ciyuan.doctor.examination import examine as examine
from ciyuan.doctor.findings import KINDS as KINDS
from ciyuan.doctor.findings import Finding as Finding
from ciyuan.doctor.shapes import guess_shape as guess_shape
